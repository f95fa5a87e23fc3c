//! The Rust side of shim/shim.cpp: functions with gradients of our own, and libtorch's threads.

use std::any::Any;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};

use tch::Tensor;

use crate::error::ModelError;

/// Gradients with respect to each input, from those of the outputs.
type Backward = Box<dyn FnOnce(&[Option<Tensor>]) -> Result<Vec<Option<Tensor>>, ModelError> + Send>;

/// What a backward function owns until it runs, and how many gradients it gets and gives.
struct State {
    backward: Option<Backward>,
    outputs: usize,
    inputs: usize,
}

unsafe extern "C" {
    fn difflow_attach(
        outputs: *const *mut c_void,
        results: usize,
        inputs: *const *mut c_void,
        count: usize,
        state: *mut c_void,
        backward: extern "C" fn(*mut c_void, *const *mut c_void, *mut *mut c_void, *mut c_char, usize) -> c_int,
        drop: extern "C" fn(*mut c_void),
        error: *mut c_char,
        room: usize,
    ) -> c_int;
    fn difflow_profile_start(error: *mut c_char, room: usize) -> c_int;
    fn difflow_profile_stop(path: *const c_char, error: *mut c_char, room: usize) -> c_int;
    fn difflow_forget_gradient(tensor: *mut c_void, error: *mut c_char, room: usize) -> c_int;
    fn difflow_set_gradient(tensor: *mut c_void, gradient: *mut c_void, error: *mut c_char, room: usize) -> c_int;
    fn difflow_set_memory(tensor: *mut c_void, there: c_int, error: *mut c_char, room: usize) -> c_int;
    fn difflow_after_gradient(
        tensor: *mut c_void,
        state: *mut c_void,
        run: extern "C" fn(*mut c_void, *mut c_char, usize) -> c_int,
        drop: extern "C" fn(*mut c_void),
        error: *mut c_char,
        room: usize,
    ) -> c_int;
    fn difflow_parallel(
        count: i64,
        grain: i64,
        body: extern "C" fn(*mut c_void, i64, i64),
        state: *mut c_void,
        error: *mut c_char,
        room: usize,
    ) -> c_int;
}

/// Calls a shim function with room for its message.
pub(crate) fn checked(call: impl FnOnce(*mut c_char, usize) -> c_int) -> Result<(), ModelError> {
    let mut message = [0 as c_char; 512];
    if call(message.as_mut_ptr(), message.len()) == 0 {
        return Ok(());
    }
    // SAFETY: the shim ends the message with a zero inside the room it was given.
    let text = unsafe { CStr::from_ptr(message.as_ptr()) }.to_string_lossy();
    Err(ModelError::of_torch(&text))
}

/// Makes `output`, computed without a graph, a differentiable function of `inputs`. `backward` runs at most once and must not
/// own `output` itself (a cycle); a detached view of it is fine.
pub(crate) fn attach(
    output: Tensor,
    inputs: &[&Tensor],
    backward: impl FnOnce(&Tensor) -> Result<Vec<Option<Tensor>>, ModelError> + Send + 'static,
) -> Result<Tensor, ModelError> {
    let [output] = attach_all([output], inputs, move |gradients| match gradients {
        [Some(gradient)] => backward(gradient),
        _ => Err(ModelError::Torch("a backward pass without a gradient".to_owned())),
    })?;
    Ok(output)
}

/// As [`attach`] for a function with several results; the gradient of one that nothing depended on is `None`.
pub(crate) fn attach_all<const N: usize>(
    outputs: [Tensor; N],
    inputs: &[&Tensor],
    backward: impl FnOnce(&[Option<Tensor>]) -> Result<Vec<Option<Tensor>>, ModelError> + Send + 'static,
) -> Result<[Tensor; N], ModelError> {
    let pointer = |tensor: &Tensor| tensor.as_ptr().cast_mut().cast();
    let results: Vec<*mut c_void> = outputs.iter().map(pointer).collect();
    let raw: Vec<*mut c_void> = inputs.iter().map(|tensor| pointer(tensor)).collect();
    let state = Box::new(State { backward: Some(Box::new(backward)), outputs: N, inputs: inputs.len() });
    let state = Box::into_raw(state).cast();
    // SAFETY: all pointers are live C++ tensors; the node owns `state` and drops it with `drop_state`.
    checked(|error, room| unsafe {
        difflow_attach(results.as_ptr(), N, raw.as_ptr(), raw.len(), state, run_backward, drop_state, error, room)
    })?;
    Ok(outputs)
}

/// Starts torch's profiler on this thread.
pub(crate) fn profile_start() -> Result<(), ModelError> {
    // SAFETY: the message has room.
    checked(|error, room| unsafe { difflow_profile_start(error, room) })
}

/// Stops it and writes a trace.
pub(crate) fn profile_stop(path: &CStr) -> Result<(), ModelError> {
    // SAFETY: a string that ends with a zero; the message has room.
    checked(|error, room| unsafe { difflow_profile_stop(path.as_ptr(), error, room) })
}

extern "C" fn run_backward(
    state: *mut c_void,
    gradients: *const *mut c_void,
    results: *mut *mut c_void,
    error: *mut c_char,
    room: usize,
) -> c_int {
    let computed = catch_unwind(AssertUnwindSafe(|| {
        // SAFETY: `state` is the box of `attach`, used by one backward pass at a time.
        let state = unsafe { &mut *state.cast::<State>() };
        let twice = || ModelError::Torch("a second backward pass through the same forward".to_owned());
        let backward = state.backward.take().ok_or_else(twice)?;
        // SAFETY: as many pointers as there are outputs.
        let given = unsafe { std::slice::from_raw_parts(gradients, state.outputs) };
        // SAFETY: null, or a live tensor, shared for the length of the call.
        let gradient = |at: &*mut c_void| (!at.is_null()).then(|| unsafe { Tensor::clone_from_ptr(at.cast()) });
        let given: Vec<Option<Tensor>> = given.iter().map(gradient).collect();
        let gradients = backward(&given)?;
        if gradients.len() == state.inputs {
            return Ok(gradients);
        }
        Err(ModelError::input("gradients of a kernel", gradients.len(), state.inputs))
    }));
    let problem = match computed {
        Ok(Ok(gradients)) => {
            for (i, gradient) in gradients.into_iter().enumerate() {
                if let Some(gradient) = gradient {
                    let mut gradient = std::mem::ManuallyDrop::new(gradient);
                    // SAFETY: `results` has room for one pointer an input; the C++ side takes ownership.
                    unsafe { *results.add(i) = gradient.as_mut_ptr().cast() };
                }
            }
            return 0;
        }
        Ok(Err(problem)) => problem.to_string(),
        Err(panic) => panicked(panic.as_ref()),
    };
    // SAFETY: the shim gives `room` bytes.
    unsafe { tell(&problem, error, room) };
    1
}

fn panicked(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    format!("it panicked: {}", text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("no text"))
}

/// # Safety
/// There are `room` bytes at `error`, at least one.
unsafe fn tell(problem: &str, error: *mut c_char, room: usize) {
    let told = &problem.as_bytes()[..problem.len().min(room - 1)];
    // SAFETY: the caller's; the text is cut to leave a byte for the zero that ends it.
    unsafe {
        std::ptr::copy_nonoverlapping(told.as_ptr(), error.cast(), told.len());
        *error.add(told.len()) = 0;
    }
}

extern "C" fn drop_state(state: *mut c_void) {
    // SAFETY: the box of `attach`, dropped once by the node's destructor.
    let _ = catch_unwind(AssertUnwindSafe(|| drop(unsafe { Box::from_raw(state.cast::<State>()) })));
}

/// What looks at a parameter's gradient.
type Look = Box<dyn Fn() -> Result<(), ModelError> + Send>;

/// Calls `look` from now on whenever a backward pass has added to a parameter's gradient; an error ends the pass. A parameter has one that
/// looks: the last.
pub(crate) fn after_gradient(
    tensor: &Tensor,
    look: impl Fn() -> Result<(), ModelError> + Send + 'static,
) -> Result<(), ModelError> {
    let state: Box<Look> = Box::new(Box::new(look));
    let (tensor, state) = (tensor.as_ptr().cast_mut().cast(), Box::into_raw(state).cast());
    // SAFETY: a live C++ tensor; it owns `state` and drops it with `drop_look`.
    checked(|error, room| unsafe { difflow_after_gradient(tensor, state, run_look, drop_look, error, room) })
}

extern "C" fn run_look(state: *mut c_void, error: *mut c_char, room: usize) -> c_int {
    // SAFETY: the box of `after_gradient`, used by one backward pass at a time.
    let look = unsafe { &*state.cast::<Look>() };
    let problem = match catch_unwind(AssertUnwindSafe(look)) {
        Ok(Ok(())) => return 0,
        Ok(Err(problem)) => problem.to_string(),
        Err(panic) => panicked(panic.as_ref()),
    };
    // SAFETY: the shim gives `room` bytes.
    unsafe { tell(&problem, error, room) };
    1
}

extern "C" fn drop_look(state: *mut c_void) {
    // SAFETY: the box of `after_gradient`, dropped once by the tensor's destructor, or by a hook that takes its place.
    let _ = catch_unwind(AssertUnwindSafe(|| drop(unsafe { Box::from_raw(state.cast::<Look>()) })));
}

/// Forgets a parameter's gradient.
pub(crate) fn forget_gradient(tensor: &mut Tensor) -> Result<(), ModelError> {
    let tensor = tensor.as_mut_ptr().cast();
    // SAFETY: a live C++ tensor.
    checked(|error, room| unsafe { difflow_forget_gradient(tensor, error, room) })
}

/// Gives a parameter another gradient, of its own shape.
pub(crate) fn set_gradient(tensor: &mut Tensor, gradient: &Tensor) -> Result<(), ModelError> {
    let (tensor, gradient) = (tensor.as_mut_ptr().cast(), gradient.as_ptr().cast_mut().cast());
    // SAFETY: live C++ tensors; the shim takes a reference of its own.
    checked(|error, room| unsafe { difflow_set_gradient(tensor, gradient, error, room) })
}

/// Takes the memory of a tensor on the CPU, which is all of its storage. The tensor and its views keep their sizes, and have no values.
pub(crate) fn empty(tensor: &Tensor) -> Result<(), ModelError> {
    set_memory(tensor, false)
}

/// Gives memory to a tensor that was emptied, with anything in it.
pub(crate) fn fill(tensor: &Tensor) -> Result<(), ModelError> {
    set_memory(tensor, true)
}

fn set_memory(tensor: &Tensor, there: bool) -> Result<(), ModelError> {
    let tensor = tensor.as_ptr().cast_mut().cast();
    // SAFETY: a live C++ tensor.
    checked(|error, room| unsafe { difflow_set_memory(tensor, c_int::from(there), error, room) })
}

/// Runs `body(begin, end)` over parts of `0..count` on libtorch's threads, at least `grain` items a part.
pub(crate) fn parallel(count: usize, grain: usize, body: impl Fn(usize, usize) + Sync) -> Result<(), ModelError> {
    struct Shared<'a> {
        body: &'a (dyn Fn(usize, usize) + Sync),
        failed: AtomicBool,
    }
    extern "C" fn run(state: *mut c_void, begin: i64, end: i64) {
        // SAFETY: lives until `difflow_parallel` returns.
        let shared = unsafe { &*state.cast::<Shared>() };
        if catch_unwind(AssertUnwindSafe(|| (shared.body)(begin as usize, end as usize))).is_err() {
            shared.failed.store(true, Ordering::Relaxed);
        }
    }
    let mut shared = Shared { body: &body, failed: AtomicBool::new(false) };
    let state = (&raw mut shared).cast();
    // SAFETY: `shared` outlives the call, and its body may be called from several threads.
    checked(|error, room| unsafe { difflow_parallel(count as i64, grain.max(1) as i64, run, state, error, room) })?;
    if shared.failed.into_inner() { Err(ModelError::Torch("a kernel of difflow panicked".to_owned())) } else { Ok(()) }
}

/// Calls `f(scratch, number, row)` for each row of `width` values, on libtorch's threads, at least `grain` rows a part; every
/// part has a scratch of its own. The results are in the order of the rows.
pub(crate) fn map_rows<S: Default, T: Clone + Default + Send>(
    values: &mut [f32],
    width: usize,
    grain: usize,
    f: impl Fn(&mut S, usize, &mut [f32]) -> T + Sync,
) -> Result<Vec<T>, ModelError> {
    /// Places that the threads write apart.
    struct Apart<T>(*mut T);
    // SAFETY: every row and every result is touched by the one part that it belongs to.
    unsafe impl<T: Send> Sync for Apart<T> {}
    impl<T> Apart<T> {
        /// # Safety
        /// `offset` must lie inside the slice.
        unsafe fn at(&self, offset: usize) -> *mut T {
            // SAFETY: the caller's.
            unsafe { self.0.add(offset) }
        }
    }
    let count = values.len() / width.max(1);
    let mut results = vec![T::default(); count];
    let (rows, out) = (Apart(values.as_mut_ptr()), Apart(results.as_mut_ptr()));
    parallel(count, grain, |begin, end| {
        let mut scratch = S::default();
        for number in begin..end {
            // SAFETY: as above.
            let row = unsafe { std::slice::from_raw_parts_mut(rows.at(number * width), width) };
            let result = f(&mut scratch, number, row);
            // SAFETY: as above.
            unsafe { *out.at(number) = result };
        }
    })?;
    Ok(results)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use tch::Kind;

    use super::*;

    /// Whoever runs out of memory, or meets a bug, in a backward pass needs libtorch's own words.
    #[test]
    fn an_error_in_a_backward_pass_keeps_libtorchs_words() {
        let failing = |backward: fn(&Tensor) -> Result<Vec<Option<Tensor>>, ModelError>| {
            let x = Tensor::f_ones([2], (Kind::Float, tch::Device::Cpu)).unwrap().f_set_requires_grad(true).unwrap();
            let y = attach(x.f_mul_scalar(1.0).unwrap().f_detach().unwrap(), &[&x], backward).unwrap();
            ModelError::from(y.f_sum(Kind::Float).unwrap().f_backward().unwrap_err())
        };
        let error = failing(|gradient| Ok(vec![Some(gradient.f_reshape([3, 5])?)])).to_string();
        assert!(error.contains("shape '[3, 5]' is invalid for input of size 2"), "{error}");
        let error = failing(|_| Ok(vec![Some(Tensor::f_empty([1 << 50], (Kind::Float, tch::Device::Cpu))?)]));
        assert!(matches!(error, ModelError::OutOfMemory { .. }), "{error}");
        let error = failing(|_| panic!("index {} out of range", 7)).to_string();
        assert!(error.contains("panicked: index 7 out of range"), "{error}");
        assert!(failing(|_| Ok(Vec::new())).to_string().contains("found 0, wanted 1"));
    }
}
