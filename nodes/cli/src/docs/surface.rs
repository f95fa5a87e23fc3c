//! The command line as a list: what scripts may rely on. A change to it shows up as a line in a diff.

use clap::{Arg, Command};

const HEAD: &str = "# The command line of difflow. Made by `difflow docs --write .`; a test compares. A line that goes away breaks someone's script.\n";

/// The list.
pub fn page(mut command: Command) -> String {
    command.build();
    let mut text = String::from(HEAD);
    commands(&command, &mut text);
    text
}

fn commands(command: &Command, text: &mut String) {
    let name = command.get_bin_name().unwrap_or_else(|| command.get_name()).to_owned();
    text.push_str(&format!("\n{name}\n"));
    for argument in command.get_arguments().filter(|argument| !argument.is_hide_set()) {
        text.push_str(&format!("  {}\n", line(argument)));
    }
    for inner in command.get_subcommands().filter(|inner| !inner.is_hide_set() && inner.get_name() != "help") {
        commands(inner, text);
    }
}

fn line(argument: &Arg) -> String {
    let value: Vec<String> =
        argument.get_value_names().unwrap_or_default().iter().map(|name| format!("<{name}>")).collect();
    let takes = argument.get_action().takes_values();
    let mut words = match argument.get_long() {
        Some(long) => {
            let short = argument.get_short().map(|short| format!("-{short}, ")).unwrap_or_default();
            format!("{short}--{long}{}", if takes { format!(" {}", value.join(" ")) } else { String::new() })
        }
        None => value.join(" "),
    };
    let choices: Vec<String> = argument.get_possible_values().iter().map(|value| value.get_name().to_owned()).collect();
    if takes && !choices.is_empty() {
        words.push_str(&format!(" [{}]", choices.join(", ")));
    }
    let defaults: Vec<String> =
        argument.get_default_values().iter().map(|value| value.to_string_lossy().into_owned()).collect();
    if takes && !defaults.is_empty() {
        words.push_str(&format!(" (default {})", defaults.join(" ")));
    }
    if argument.is_required_set() {
        words.push_str(" (required)");
    }
    words
}
