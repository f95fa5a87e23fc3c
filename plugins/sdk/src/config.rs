//! A component's options: one declaration defines the struct, the defaults, the checks and the JSON Schema that
//! `difflow plugin show` prints.

use serde_json::{Map, Value};

use crate::Error;

/// Options of a component. [`config!`](crate::config!) makes one; `()` has none.
pub trait Config: Sized {
    /// The options with types, defaults, bounds and descriptions.
    const PROPERTIES: &'static [Property];

    /// Reads the configuration object; an absent option takes its default.
    ///
    /// # Errors
    /// [`Error::config`] with the JSON Pointer of the wrong option.
    fn read(object: &Map<String, Value>) -> Result<Self, Error>;
}

impl Config for () {
    const PROPERTIES: &'static [Property] = &[];

    fn read(object: &Map<String, Value>) -> Result<Self, Error> {
        refuse_unknown(object, Self::PROPERTIES)
    }
}

/// One option, for the schema.
#[derive(Debug)]
pub struct Property {
    /// Its key.
    pub name: &'static str,
    /// JSON type.
    pub kind: &'static str,
    /// Default as JSON.
    pub default: &'static str,
    /// Schema keywords and their values, such as `("minimum", "0")`.
    pub bounds: &'static [(&'static str, &'static str)],
    /// What it does.
    pub description: &'static str,
}

/// The text of a configuration as options.
///
/// # Errors
/// When it is not a JSON object, or an option is wrong.
pub fn parse<C: Config>(text: &str) -> Result<C, Error> {
    match serde_json::from_str(text) {
        Ok(Value::Object(object)) => C::read(&object),
        Ok(other) => Err(Error::config("", format!("found {other}, wanted a JSON object, {{}} for the defaults"))),
        Err(e) => Err(Error::config("", format!("not JSON: {e}"))),
    }
}

/// Every key must be an option.
///
/// # Errors
/// For the first that is not.
pub fn refuse_unknown(object: &Map<String, Value>, properties: &[Property]) -> Result<(), Error> {
    let known: Vec<&str> = properties.iter().map(|property| property.name).collect();
    match object.keys().find(|key| !known.contains(&key.as_str())) {
        None => Ok(()),
        Some(key) => {
            let allowed = if known.is_empty() { "there are no options".into() } else { known.join(", ") };
            Err(Error::config(format!("/{}", escaped(key)), format!("unknown option; known: {allowed}")))
        }
    }
}

/// A type that an option can have.
pub trait OptionType: Sized {
    /// Its name in JSON Schema.
    const KIND: &'static str;

    /// The value, if it is of this type.
    fn from_json(value: &Value) -> Option<Self>;
}

macro_rules! option_types {
    ($($type:ty, $kind:literal, $read:expr;)+) => {
        $(impl OptionType for $type {
            const KIND: &'static str = $kind;
            fn from_json(value: &Value) -> Option<Self> {
                let read: fn(&Value) -> Option<Self> = $read;
                read(value)
            }
        })+
    };
}

option_types! {
    f64, "number", |value| value.as_f64().filter(|number| number.is_finite());
    u64, "integer", Value::as_u64;
    i64, "integer", Value::as_i64;
    bool, "boolean", Value::as_bool;
    String, "string", |value| value.as_str().map(str::to_owned);
}

/// The value of one option, if it is there.
///
/// # Errors
/// When it has another type.
pub fn option<T: OptionType>(object: &Map<String, Value>, name: &str) -> Result<Option<T>, Error> {
    let Some(value) = object.get(name) else { return Ok(None) };
    let wrong = || Error::config(format!("/{}", escaped(name)), format!("found {value}, wanted: {}", T::KIND));
    T::from_json(value).map(Some).ok_or_else(wrong)
}

fn escaped(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}

/// Declares the options of a component: type (`f64`, `u64`, `i64`, `bool`, `String`), default, and the bounds `minimum`, `maximum`,
/// `exclusiveMinimum`, `exclusiveMaximum` of JSON Schema. Every option needs a doc comment: it is what users read.
#[macro_export]
macro_rules! config {
    ($(#[$about:meta])* $vis:vis struct $name:ident {
        $($(#[doc = $doc:literal])+ $field:ident : $type:tt = $default:literal $(, $bound:ident $limit:literal)* ;)*
    }) => {
        $(#[$about])*
        #[derive(Debug, Clone, PartialEq)]
        $vis struct $name {
            $($(#[doc = $doc])+ pub $field: $type,)*
        }

        impl $crate::Config for $name {
            const PROPERTIES: &'static [$crate::config::Property] = &[$($crate::config::Property {
                name: stringify!($field),
                kind: <$type as $crate::config::OptionType>::KIND,
                default: stringify!($default),
                bounds: &[$((stringify!($bound), stringify!($limit))),*],
                description: concat!($($doc),+),
            }),*];

            fn read(
                object: &$crate::serde_json::Map<String, $crate::serde_json::Value>,
            ) -> ::std::result::Result<Self, $crate::Error> {
                $crate::config::refuse_unknown(object, Self::PROPERTIES)?;
                $(
                    let $field: $type = match $crate::config::option(object, stringify!($field))? {
                        ::std::option::Option::Some(value) => value,
                        ::std::option::Option::None => $crate::__default!($type, $default),
                    };
                    $(
                        let inside: bool = $crate::__bound!($bound, $field, $limit);
                        if !inside {
                            let message = concat!(stringify!($bound), " is ", stringify!($limit));
                            let found = format!("found {}; {message}", $field);
                            return ::std::result::Result::Err($crate::Error::config(concat!("/", stringify!($field)), found));
                        }
                    )*
                )*
                ::std::result::Result::Ok(Self { $($field),* })
            }
        }
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __default {
    (String, $value:literal) => {
        String::from($value)
    };
    ($type:tt, $value:literal) => {
        $value
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __bound {
    (minimum, $value:ident, $limit:literal) => {
        $value >= $limit
    };
    (maximum, $value:ident, $limit:literal) => {
        $value <= $limit
    };
    (exclusiveMinimum, $value:ident, $limit:literal) => {
        $value > $limit
    };
    (exclusiveMaximum, $value:ident, $limit:literal) => {
        $value < $limit
    };
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    config! {
        struct Options {
            /// Exponent of "α".
            power: f64 = 2.0, exclusiveMinimum 0.0, maximum 8.0;
            /// How many.
            count: u64 = 3;
            /// Which.
            shape: String = "round";
            /// Or not.
            flip: bool = false;
        }
    }

    #[test]
    fn an_absent_option_takes_its_default() {
        let wanted = Options { power: 2.0, count: 5, shape: "round".into(), flip: false };
        assert_eq!(parse::<Options>(r#"{"count": 5}"#).unwrap(), wanted);
    }

    #[test]
    fn a_wrong_option_is_named_by_its_pointer() {
        for (text, pointer) in [
            (r#"{"power": 0}"#, "/power"),
            (r#"{"power": 9}"#, "/power"),
            (r#"{"count": -1}"#, "/count"),
            (r#"{"count": "many"}"#, "/count"),
            (r#"{"po/wer~": 1}"#, "/po~1wer~0"),
            ("[]", ""),
            ("{", ""),
        ] {
            assert_eq!(parse::<Options>(text).unwrap_err().path(), Some(pointer), "{text}");
        }
        assert_eq!(parse::<()>(r#"{"x": 1}"#).unwrap_err().path(), Some("/x"));
    }

    #[test]
    fn the_schema_is_json_whatever_the_description_says() {
        let bytes = crate::export::schema::<{ crate::export::schema_length(Options::PROPERTIES) }>(Options::PROPERTIES);
        let schema: Value = serde_json::from_slice(&bytes[..bytes.len() - 1]).unwrap();
        let power = &schema["properties"]["power"];
        assert_eq!(power["description"], "Exponent of \"α\".");
        assert_eq!((power["default"].as_f64(), power["exclusiveMinimum"].as_f64()), (Some(2.0), Some(0.0)));
        assert_eq!(schema["properties"]["shape"]["default"], "round");
        assert_eq!(schema["additionalProperties"], false);
    }
}
