//! The components that come with difflow pass what is asked of every plug-in. A process of its own: one of the tests counts the heap,
//! to which everything else in the process would be added.
#![allow(clippy::unwrap_used)]

use difflow_plugin_host::conformance::{Stop, tests};
use difflow_plugin_host::{Found, Kind, Library};

#[test]
fn every_built_in_component_passes() {
    let library = Library::builtin().unwrap();
    assert!(library.components().len() >= 15);
    // A torch model has no tests of its own here.
    let of_every_kind = tests(Kind::TorchModel).len();
    for component in library.components() {
        let found = Found { library: library.clone(), component: component.clone() };
        let mut passed = 0;
        for test in tests(component.kind) {
            match (test.run)(&found) {
                Ok(()) => passed += 1,
                Err(Stop::Skip(_)) => {}
                Err(Stop::Fail(message)) => panic!("{} {}: {message}", component.id, test.name),
            }
        }
        // All that every component can take but that of a state, and one at least of its kind.
        assert!(passed >= of_every_kind, "{}: only {passed} tests apply", component.id);
    }
}
