//! What every component has, whatever its kind.

use crate::{Config, Error};

/// A component: what `create` makes of a configuration. The kind's trait says what it can do.
pub trait Component: Sized + Send + 'static {
    /// Its options, made with [`config!`](crate::config!); `()` for none.
    type Config: Config;

    /// Makes an instance.
    ///
    /// # Errors
    /// [`Error::config`] when options that are each right do not go together.
    fn create(config: Self::Config) -> Result<Self, Error>;
}

/// Options that are right each for itself are a component as they stand: what is made of them is they themselves.
impl<T: Config + Send + 'static> Component for T {
    type Config = Self;

    fn create(config: Self) -> Result<Self, Error> {
        Ok(config)
    }
}
