//! The page to play on, in a real browser.

use std::time::Duration;

use difflow_tests::Browser;

use crate::served::Served;

const LONG: Duration = Duration::from_secs(120);

#[test]
fn the_page_writes_shows_the_text_being_unmasked_and_steps_through_it() {
    let Some(mut browser) = Browser::open("the page of difflow serve") else { return };
    let served = Served::diffusion(&[]);
    browser.screen(1200, 900, false);
    browser.go(&format!("{}/", served.url()));
    browser.wait("document.getElementById('state').textContent === 'ready'", LONG);
    browser.wait("document.getElementById('about').textContent.includes('fills gaps')", LONG);
    // With the keyboard: a text, a gap where the cursor is, and off it goes.
    let press = |browser: &mut Browser, key: &str, more: &str| {
        browser.eval(&format!(
            "document.activeElement.dispatchEvent(new KeyboardEvent('keydown', {{key: '{key}', bubbles: true, {more}}}))"
        ));
    };
    browser.eval("document.getElementById('prompt').value = 'a day at the lake', document.getElementById('prompt').setSelectionRange(5, 5)");
    browser.eval("document.getElementById('prompt').focus()");
    press(&mut browser, "g", "altKey: true");
    assert_eq!(browser.eval("document.getElementById('prompt').value"), "a day [MASK] at the lake");
    browser.eval("document.getElementById('prompt').value = 'a day [MASK:6] at the lake'");
    browser.eval("document.getElementById('count').value = '2', document.getElementById('seed').value = '3'");
    browser
        .eval("document.getElementById('temperature').value = '0.5', document.getElementById('temperature').oninput()");
    press(&mut browser, "Enter", "ctrlKey: true");
    browser.wait("document.getElementById('where').textContent.includes('seed 3')", LONG);
    // What it shows is what the server writes.
    let body = serde_json::json!({"prompt": "a day [MASK:6] at the lake", "n": 2, "seed": 3, "temperature": 0.5});
    let answer = served.http.post("/v1/completions", &body).json();
    let shown = "[...document.querySelectorAll('#canvas span:not(.end)')].map((s) => s.textContent).join('')";
    browser.wait(&format!("{shown} === {}", answer["choices"][0]["text"]), LONG);
    browser.eval("document.querySelectorAll('#tabs button')[1].click()");
    browser.wait(&format!("{shown} === {}", answer["choices"][1]["text"]), LONG);
    // Back to the start, on by one, and played to the end.
    let covered = "document.querySelectorAll('#canvas .masked').length";
    browser.eval("document.getElementById('time').value = '0', document.getElementById('time').oninput()");
    assert_eq!(browser.eval(covered), 6);
    browser.eval("document.getElementById('play').focus()");
    press(&mut browser, "ArrowRight", "");
    assert!(browser.eval(covered).as_u64().unwrap() < 6);
    press(&mut browser, "ArrowLeft", "");
    assert_eq!(browser.eval(covered), 6);
    browser.eval("document.getElementById('play').click()");
    browser.wait(&format!("{covered} === 0"), LONG);
    browser.picture("serve-desktop");
    // In the dark, and on a phone.
    browser.dark(true);
    let dark = browser.eval("getComputedStyle(document.body).backgroundColor");
    assert_eq!(dark, "rgb(14, 17, 22)");
    browser.screen(390, 844, true);
    browser.wait("document.documentElement.scrollWidth <= innerWidth", LONG);
    let small =
        "[...document.querySelectorAll('button, select')].filter((b) => b.offsetParent && b.offsetHeight < 32).length";
    assert_eq!(browser.eval(small), 0, "buttons too small for a finger");
    browser.picture("serve-phone");
    // What is wrong is said. The refusal itself is an error of the console.
    assert_eq!(browser.complaints(), Vec::<String>::new());
    browser.eval(
        "document.getElementById('prompt').value = 'a [MASK:x] b', document.getElementById('form').requestSubmit()",
    );
    browser.wait("!document.getElementById('notice').hidden && document.getElementById('notice').textContent.includes('[MASK:5]')", LONG);
    let asked = browser.requested();
    let outside: Vec<String> = asked.into_iter().filter(|asked| !asked.starts_with(&served.url())).collect();
    assert!(outside.iter().all(|asked| asked == "about:blank"), "asked elsewhere: {outside:?}");
}
