//! Where tasks are found by their names.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::error::EvalError;
use crate::task::{Suite, Task};

/// Where a project keeps its tasks.
const TASKS: &str = "data/tasks";

/// Folders of tasks; of two tasks with one name that of the earlier folder counts.
#[derive(Debug, Clone)]
pub struct Places {
    folders: Vec<PathBuf>,
}

impl Places {
    /// Returns one folder.
    pub fn of(folder: &Path) -> Self {
        Self { folders: vec![folder.to_owned()] }
    }

    /// Returns `data/tasks` of the current folder, of each folder above it, and of the checkout that this program belongs to.
    pub fn near() -> Self {
        let here = std::env::current_dir().unwrap_or_default();
        // The nearest as it would be typed; messages are shorter.
        let above = here.ancestors().skip(1).map(|folder| folder.join(TASKS));
        let mut folders: Vec<PathBuf> = std::iter::once(PathBuf::from(TASKS)).chain(above).collect();
        let program = std::env::current_exe().ok().and_then(|path| path.canonicalize().ok());
        folders.extend(program.and_then(|path| Some(path.parent()?.parent()?.join(TASKS))));
        let mut known = Vec::new();
        folders.retain(|folder| {
            let Ok(real) = folder.canonicalize() else { return false };
            let new = real.is_dir() && !known.contains(&real);
            known.push(real);
            new
        });
        Self { folders }
    }

    /// Reads tasks by their names or by their paths. Errors if one is not there, with the folders that were looked in and their tasks.
    pub fn tasks(&self, names: &[String]) -> Result<Vec<Task>, EvalError> {
        names.iter().map(|name| self.task(name)).collect()
    }

    fn task(&self, name: &str) -> Result<Task, EvalError> {
        let named = self.folders.iter().map(|folder| folder.join(format!("{name}.yml")));
        if let Some(path) = named.chain([PathBuf::from(name)]).find(|path| path.is_file()) {
            return Task::read(&path);
        }
        let known: Vec<String> = self.all()?.into_iter().map(|task| task.name).collect();
        let allowed = format!("allowed: a task file, or a task of {self}: {}", known.join(", "));
        Err(EvalError::task(name, "name", format!("`{name}`"), allowed))
    }

    /// Reads all tasks, by name. Errors if a folder or a file cannot be read.
    pub fn all(&self) -> Result<Vec<Task>, EvalError> {
        let mut all = BTreeMap::new();
        for folder in self.folders.iter().rev() {
            all.extend(Task::all(folder)?.into_iter().map(|task| (task.name.clone(), task)));
        }
        Ok(all.into_values().collect())
    }

    /// Reads all suites, by name. Errors if one cannot be read.
    pub fn suites(&self) -> Result<Vec<Suite>, EvalError> {
        let mut all = BTreeMap::new();
        for folder in self.folders.iter().rev() {
            all.extend(Suite::all(folder)?.into_iter().map(|suite| (suite.name.clone(), suite)));
        }
        Ok(all.into_values().collect())
    }
}

impl std::fmt::Display for Places {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        if self.folders.is_empty() {
            return write!(f, "{TASKS}, which is neither here nor in a folder above");
        }
        let names: Vec<String> = self.folders.iter().map(|folder| folder.display().to_string()).collect();
        f.write_str(&names.join(", "))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const TASK: &str = "kind: perplexity\nsource: {path: a.jsonl}\ntext: '{{ q }}'\nmetrics: [perplexity]\n";

    #[test]
    fn the_nearer_folder_counts_and_both_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let folders = ["near", "far"].map(|name| dir.path().join(name));
        for (folder, task) in [(&folders[0], "one"), (&folders[1], "one"), (&folders[1], "two")] {
            std::fs::create_dir_all(folder).unwrap();
            std::fs::write(folder.join(format!("{task}.yml")), format!("about: {}\n{TASK}", folder.display())).unwrap();
        }
        let places = Places { folders: folders.to_vec() };
        let about = |folder: &PathBuf| folder.display().to_string();
        let found = places.tasks(&["one".to_owned(), "two".to_owned()]).unwrap();
        assert_eq!([&found[0].about, &found[1].about], [&about(&folders[0]), &about(&folders[1])]);
        assert_eq!(places.all().unwrap()[0].about, about(&folders[0]));
        assert!(places.suites().unwrap().is_empty());
        let error = places.tasks(&["three".to_owned()]).unwrap_err().to_string();
        for part in [about(&folders[0]), about(&folders[1]), "one, two".to_owned()] {
            assert!(error.contains(&part), "{part} not in {error}");
        }
    }
}
