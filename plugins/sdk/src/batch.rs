//! A batch as plain vectors: the columns that travel on difflow's edges.

/// One batch: columns by name, each with one value a row.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    /// Number of rows.
    pub rows: usize,
    /// Name and values, in the order of the schema.
    pub columns: Vec<(String, Column)>,
}

/// The values of a column, one entry a row. No column has nulls.
#[derive(Debug, Clone, PartialEq)]
pub enum Column {
    Flags(Vec<bool>),
    U32(Vec<u32>),
    U64(Vec<u64>),
    F64(Vec<f64>),
    Text(Vec<String>),
    /// A list of booleans a row, such as `masked`.
    FlagLists(Vec<Vec<bool>>),
    /// A list of numbers a row, such as `tokens`.
    U32Lists(Vec<Vec<u32>>),
}

/// The type of a [`Column`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Flags,
    U32,
    U64,
    F64,
    Text,
    FlagLists,
    U32Lists,
}

/// A column of the schema.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field {
    /// Its name.
    pub name: String,
    /// Its type.
    pub kind: Kind,
}

impl Column {
    /// The type.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Flags(_) => Kind::Flags,
            Self::U32(_) => Kind::U32,
            Self::U64(_) => Kind::U64,
            Self::F64(_) => Kind::F64,
            Self::Text(_) => Kind::Text,
            Self::FlagLists(_) => Kind::FlagLists,
            Self::U32Lists(_) => Kind::U32Lists,
        }
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        match self {
            Self::Flags(values) => values.len(),
            Self::U32(values) => values.len(),
            Self::U64(values) => values.len(),
            Self::F64(values) => values.len(),
            Self::Text(values) => values.len(),
            Self::FlagLists(values) => values.len(),
            Self::U32Lists(values) => values.len(),
        }
    }

    /// The rows of `which`, in that order; a row may come several times.
    fn pick(&self, which: &[usize]) -> Self {
        fn chosen<T: Clone>(values: &[T], which: &[usize]) -> Vec<T> {
            which.iter().map(|&row| values[row].clone()).collect()
        }
        match self {
            Self::Flags(values) => Self::Flags(chosen(values, which)),
            Self::U32(values) => Self::U32(chosen(values, which)),
            Self::U64(values) => Self::U64(chosen(values, which)),
            Self::F64(values) => Self::F64(chosen(values, which)),
            Self::Text(values) => Self::Text(chosen(values, which)),
            Self::FlagLists(values) => Self::FlagLists(chosen(values, which)),
            Self::U32Lists(values) => Self::U32Lists(chosen(values, which)),
        }
    }
}

macro_rules! access {
    ($($(#[$doc:meta])* $get:ident, $get_mut:ident, $variant:ident: $type:ty;)+) => {
        impl Batch {
            $(
                $(#[$doc])*
                pub fn $get(&self, name: &str) -> Option<&$type> {
                    self.columns.iter().find_map(|(found, column)| match column {
                        Column::$variant(values) if found == name => Some(values),
                        _ => None,
                    })
                }

                /// The same, to be changed.
                pub fn $get_mut(&mut self, name: &str) -> Option<&mut $type> {
                    self.columns.iter_mut().find_map(|(found, column)| match column {
                        Column::$variant(values) if found == name => Some(values),
                        _ => None,
                    })
                }
            )+
        }
    };
}

access! {
    /// A column of texts; `None` when there is none of this name and type.
    text, text_mut, Text: Vec<String>;
    /// A column of fractions.
    f64, f64_mut, F64: Vec<f64>;
    /// A column of numbers.
    u64, u64_mut, U64: Vec<u64>;
    /// A column of lists of booleans.
    flag_lists, flag_lists_mut, FlagLists: Vec<Vec<bool>>;
    /// A column of lists of numbers.
    u32_lists, u32_lists_mut, U32Lists: Vec<Vec<u32>>;
}

impl Batch {
    /// The rows of `which`, in that order; a row may come several times.
    pub fn pick(&self, which: &[usize]) -> Self {
        let columns = self.columns.iter().map(|(name, column)| (name.clone(), column.pick(which))).collect();
        Self { rows: which.len(), columns }
    }
}
