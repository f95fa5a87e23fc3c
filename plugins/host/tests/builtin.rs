//! The components that come with difflow pass what is asked of every plug-in. A process of its own: one of the tests counts the heap,
//! to which everything else in the process would be added.
#![allow(clippy::unwrap_used)]

use difflow_plugin_host::conformance::{Stop, tests};
use difflow_plugin_host::{Found, Library};

#[test]
fn every_built_in_component_passes() {
    let library = Library::builtin().unwrap();
    assert!(library.components().len() >= 15);
    for component in library.components() {
        let found = Found { library: library.clone(), component: component.clone() };
        for test in tests(component.kind) {
            if let Err(Stop::Fail(message)) = (test.run)(&found) {
                panic!("{} {}: {message}", component.id, test.name);
            }
        }
    }
}
