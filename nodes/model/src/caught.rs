//! Failures of torch's operations that come as panics. tch reads the error of an operation only after it has freed the numbers among its
//! arguments, and freeing one panics where there is an error to be read: running out of memory in `f_mul_scalar` would end the program.

use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind, set_hook, take_hook};
use std::sync::Once;

use crate::error::ModelError;

thread_local! {
    /// Whether this thread's panics are caught here.
    static CATCHING: Cell<bool> = const { Cell::new(false) };
}

/// What tch's panic begins with.
const PANIC: &str = "called `Result::unwrap()` on an `Err` value: Torch(\"";

/// Does `work`; a failure of torch's that panics is the error that it should have been. Other panics go on.
pub(crate) fn caught<T>(work: impl FnOnce() -> Result<T, ModelError>) -> Result<T, ModelError> {
    silence();
    let before = CATCHING.replace(true);
    let done = catch_unwind(AssertUnwindSafe(work));
    CATCHING.set(before);
    done.unwrap_or_else(|panic| match of_torch(panic.as_ref()) {
        Some(message) => Err(ModelError::of_torch(message)),
        None => resume_unwind(panic),
    })
}

/// Torch's message, if the panic is of that kind.
fn of_torch(panic: &(dyn Any + Send)) -> Option<&str> {
    panic.downcast_ref::<String>()?.strip_prefix(PANIC)
}

/// Lets panics that will be caught say nothing: their error will be told.
fn silence() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = take_hook();
        set_hook(Box::new(move |panic| {
            if !CATCHING.get() || of_torch(panic.payload()).is_none() {
                before(panic);
            }
        }));
    });
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use tch::{Device, Kind, Tensor};

    use super::*;

    /// Both fail in an operation with a number among its arguments.
    #[test]
    fn an_operation_that_fails_with_a_number_among_its_arguments_is_an_error() {
        let narrow = Tensor::zeros([3], (Kind::Float, Device::Cpu));
        let wrong = Tensor::ones([5], (Kind::Bool, Device::Cpu));
        let error = caught(|| Ok(narrow.f_masked_fill(&wrong, 1.0)?)).unwrap_err();
        assert!(matches!(&error, ModelError::Torch(text) if text.contains("size")), "{error}");
        let wide = Tensor::zeros([1], (Kind::Float, Device::Cpu)).expand([1 << 46], false);
        let error = caught(|| Ok(wide.f_add_scalar(1.0)?)).unwrap_err();
        assert!(matches!(error, ModelError::OutOfMemory { .. }), "{error}");
        assert_eq!(caught(|| Ok(7)).unwrap(), 7);
    }

    #[test]
    fn a_panic_of_ours_goes_on() {
        let panic = catch_unwind(|| caught::<()>(|| panic!("ours"))).unwrap_err();
        assert_eq!(panic.downcast_ref::<&str>(), Some(&"ours"));
    }
}
