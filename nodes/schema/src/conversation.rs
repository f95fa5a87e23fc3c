//! A conversation, as OpenAI's API and most data sets have it: messages with a role and a content, of which the assistant's are answers.

use serde_json::{Value, json};

/// The role whose messages are answers.
pub const ASSISTANT: &str = "assistant";
/// The role of who asks.
pub const USER: &str = "user";
/// Roles that may stand first, before who asks.
const FIRST: [&str; 2] = ["system", "developer"];
/// Roles of what an answer called.
const CALLED: [&str; 2] = ["tool", "function"];

/// Messages in order: perhaps one of `system`, then `user` and `assistant` in turn, the last an answer; behind an answer, what it called may
/// stand.
#[derive(Debug, Clone, PartialEq)]
pub struct Conversation(Vec<Value>);

/// Why messages are no conversation that can be learned from.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ConversationError {
    #[error(
        "not a JSON list of messages ({0}); wanted: [{{\"role\": \"user\", \"content\": \"…\"}}, {{\"role\": \"assistant\", \"content\": \"…\"}}]"
    )]
    NotAList(String),
    #[error("message {0} (counted from 0) has no `role` that is a text")]
    NoRole(usize),
    #[error(
        "message {number} (counted from 0) has the role `{role}`; allowed: system, developer, user, assistant, tool, function"
    )]
    UnknownRole { number: usize, role: String },
    #[error(
        "message {number} (counted from 0) has a `content` that is {found}; wanted: a text, or a list of parts of type `text`"
    )]
    Content { number: usize, found: String },
    #[error(
        "roles are out of order: message {number} (counted from 0) is of `{role}` behind {before}; wanted: perhaps `system`, then `user` and \
         `assistant` in turn"
    )]
    Order { number: usize, role: String, before: String },
    #[error("it ends with a message of `{0}`; wanted: an answer, of `assistant`, at its end")]
    NoAnswer(String),
    #[error("it has no message")]
    Empty,
    #[error("the answer in message {0} (counted from 0) is empty; leave such documents out with SQL")]
    EmptyAnswer(usize),
}

impl Conversation {
    /// A prompt and its response.
    ///
    /// # Errors
    /// When the response is empty.
    pub fn exchange(prompt: &str, response: &str) -> Result<Self, ConversationError> {
        Self::of(vec![json!({"role": USER, "content": prompt}), json!({"role": ASSISTANT, "content": response})])
    }

    /// The messages of a JSON list.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn parse(json: &str) -> Result<Self, ConversationError> {
        Self::of(serde_json::from_str(json).map_err(|e| ConversationError::NotAList(e.to_string()))?)
    }

    /// These messages. Of a content in parts the texts are put together; what is null counts as missing.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn of(mut messages: Vec<Value>) -> Result<Self, ConversationError> {
        let mut before: Option<String> = None;
        for (number, message) in messages.iter_mut().enumerate() {
            let Value::Object(fields) = message else { return Err(ConversationError::NoRole(number)) };
            fields.retain(|_, value| !value.is_null());
            let role = fields.get("role").and_then(Value::as_str).ok_or(ConversationError::NoRole(number))?.to_owned();
            check_order(number, &role, before.as_deref())?;
            let content = content(number, fields.get("content"))?;
            if role == ASSISTANT && content.trim().is_empty() && !fields.contains_key("tool_calls") {
                return Err(ConversationError::EmptyAnswer(number));
            }
            fields.insert("content".to_owned(), content.into());
            before = Some(role);
        }
        match before {
            Some(role) if role == ASSISTANT => Ok(Self(messages)),
            Some(role) => Err(ConversationError::NoAnswer(role)),
            None => Err(ConversationError::Empty),
        }
    }

    /// The messages: objects with `role` and `content`, both texts, and whatever else they had.
    pub fn messages(&self) -> &[Value] {
        &self.0
    }

    /// Places of the answers among the messages.
    pub fn answers(&self) -> Vec<usize> {
        (0..self.0.len()).filter(|&at| self.0[at]["role"] == ASSISTANT).collect()
    }

    /// The contents, one below the other.
    pub fn text(&self) -> String {
        self.contents().collect::<Vec<_>>().join("\n")
    }

    /// The contents in order.
    pub fn contents(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|message| message["content"].as_str().unwrap_or_default())
    }

    /// As JSON.
    pub fn to_json(&self) -> String {
        Value::from(self.0.as_slice()).to_string()
    }
}

fn check_order(number: usize, role: &str, before: Option<&str>) -> Result<(), ConversationError> {
    let is = |roles: &[&str]| before.is_some_and(|before| roles.contains(&before));
    let fits = match role {
        USER => before.is_none() || is(&FIRST) || is(&[ASSISTANT]),
        ASSISTANT => is(&[USER]) || is(&CALLED),
        role if FIRST.contains(&role) => before.is_none(),
        role if CALLED.contains(&role) => is(&[ASSISTANT]) || is(&CALLED),
        _ => return Err(ConversationError::UnknownRole { number, role: role.to_owned() }),
    };
    if fits {
        return Ok(());
    }
    let before = before.map_or_else(|| "nothing".to_owned(), |before| format!("one of `{before}`"));
    Err(ConversationError::Order { number, role: role.to_owned(), before })
}

fn content(number: usize, content: Option<&Value>) -> Result<String, ConversationError> {
    let wrong =
        |found: &Value| ConversationError::Content { number, found: found.to_string().chars().take(60).collect() };
    let part = |part: &Value| match (part["type"].as_str(), part["text"].as_str()) {
        (Some("text"), Some(text)) => Ok(text.to_owned()),
        _ => Err(wrong(part)),
    };
    match content {
        None => Ok(String::new()),
        Some(Value::String(text)) => Ok(text.clone()),
        Some(Value::Array(parts)) => parts.iter().map(part).collect(),
        Some(other) => Err(wrong(other)),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn parse(roles: &str) -> Result<Conversation, ConversationError> {
        let messages = roles.split_whitespace().map(|role| json!({"role": role, "content": format!("says {role}")}));
        Conversation::of(messages.collect())
    }

    #[test]
    fn roles_come_in_turn_and_the_last_is_an_answer() {
        for good in
            ["user assistant", "system user assistant user assistant", "developer user assistant tool tool assistant"]
        {
            assert!(parse(good).is_ok(), "{good}");
        }
        for (bad, part) in [
            ("assistant user assistant", "message 0 (counted from 0) is of `assistant` behind nothing"),
            ("user user assistant", "message 1 (counted from 0) is of `user` behind one of `user`"),
            ("user assistant assistant", "behind one of `assistant`"),
            ("user system assistant", "is of `system` behind one of `user`"),
            ("user assistant user", "ends with a message of `user`"),
            ("user bot", "the role `bot`; allowed: system"),
            ("tool assistant", "is of `tool` behind nothing"),
            ("", "no message"),
        ] {
            let error = parse(bad).unwrap_err().to_string();
            assert!(error.contains(part), "{bad}: {part} not in {error}");
        }
    }

    #[test]
    fn contents_are_texts_or_parts_and_answers_are_not_empty() {
        let parts = r#"[{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "name": null},
                        {"role": "assistant", "content": "c", "extra": 1}]"#;
        let conversation = Conversation::parse(parts).unwrap();
        assert_eq!(conversation.text(), "ab\nc");
        assert_eq!(conversation.answers(), [1]);
        assert_eq!(conversation.messages()[0], json!({"role": "user", "content": "ab"}));
        assert_eq!(Conversation::parse(&conversation.to_json()).unwrap(), conversation);
        for (bad, part) in [
            (r#"[{"role": "user", "content": [{"type": "image"}]}, {"role": "assistant", "content": "c"}]"#, "image"),
            (r#"[{"role": "user", "content": 3}]"#, "that is 3"),
            (r#"[{"role": "user"}, {"role": "assistant", "content": " \n"}]"#, "message 1 (counted from 0) is empty"),
            (r#"[{"role": "user"}, {"role": "assistant"}]"#, "is empty"),
            (r#"[{"content": "x"}]"#, "no `role`"),
            ("{}", "not a JSON list"),
            ("hello", "not a JSON list"),
        ] {
            let error = Conversation::parse(bad).unwrap_err().to_string();
            assert!(error.contains(part), "{bad}: {part} not in {error}");
        }
        let call = r#"[{"role": "user", "content": "x"}, {"role": "assistant", "content": null, "tool_calls": [1]}]"#;
        assert!(Conversation::parse(call).is_ok(), "a call of a tool needs no words");
        assert_eq!(Conversation::exchange("p", "").unwrap_err(), ConversationError::EmptyAnswer(1));
    }
}
