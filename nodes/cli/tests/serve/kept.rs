//! What a server keeps from one request to the next: the model, and what was read.

use difflow_inference::tiny;
use serde_json::json;

use crate::requests::{ok, text};
use crate::served::Served;

/// What is there now is served from SIGHUP on; what cannot be opened leaves the server as it is.
#[test]
fn a_checkpoint_is_read_again_on_sighup() {
    let folder = tempfile::tempdir().unwrap();
    let (model, next) = (folder.path().join("model"), folder.path().join("next"));
    tiny::write_model(&model, true, 0.3);
    let served = Served::start(&model, &[]);
    let write = || text(&ok(served.http.post("/v1/completions", &json!({"prompt": "a day", "seed": 3}))));
    let first = write();
    tiny::write_model(&next, true, 0.5);
    std::fs::rename(&model, folder.path().join("before")).unwrap();
    std::fs::rename(&next, &model).unwrap();
    served.signal(libc::SIGHUP);
    served.says("serving");
    let second = write();
    assert_ne!(second, first);
    std::fs::rename(&model, &next).unwrap();
    served.signal(libc::SIGHUP);
    served.says("E error: ");
    assert_eq!(write(), second);
    assert_eq!(served.metric("difflow_models_total"), 2.0);
}

/// All of the prompt but its last token; with no room to keep it, nothing.
#[test]
fn a_prompt_that_begins_like_one_before_is_not_read_again() {
    let folder = tempfile::tempdir().unwrap();
    tiny::write_model(folder.path(), false, 0.3);
    for (options, kept) in [(&[][..], true), (&["--prefix-cache", "0"], false)] {
        let served = Served::start(folder.path(), options);
        let write = || ok(served.http.post("/v1/completions", &json!({"prompt": "a day at the lake", "seed": 3})));
        let first = write();
        assert_eq!(served.metric("difflow_known_tokens_total"), 0.0);
        assert_eq!(text(&write()), text(&first));
        let all = first["usage"]["prompt_tokens"].as_f64().unwrap() - 1.0;
        assert_eq!(served.metric("difflow_known_tokens_total"), if kept { all } else { 0.0 });
    }
}
