//! The grammar of an answer that must be tool calls.

use llguidance::api::GrammarWithLexer;
use serde::Deserialize;
use serde_json::Value;

use crate::argument_grammar::{arguments, Notation};
use crate::error::{invalid, shown, Result};
use crate::grammar_source::{free_terminal, read, schema, Marker, Tag};
use crate::tokenizer::Tokenizer;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Reasoning {
    open: String,
    close: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ToolCalls {
    reasoning: Option<Reasoning>,
    open: String,
    between: String,
    close: String,
    calls: Vec<Tag>,
    /// Of the arguments; none: they are a JSON object.
    notation: Option<Notation>,
    only_one: bool,
}

/// Between reasoning and the calls.
const BLANKS: &str = "BLANKS: /[ \\n]{1,4}/\n";

pub fn tool_calls(text: &str, tokenizer: &Tokenizer) -> Result<GrammarWithLexer> {
    let wanted: ToolCalls = read(text, "the tool calls are not as they should be")?;
    if wanted.calls.is_empty() || wanted.calls.iter().any(|call| call.begin.is_empty()) {
        return Err(invalid("tool calls need at least one tool, each with a begin"));
    }
    // A rule of nothing where there is no such marker.
    let rule = |name: &str, marker: &str| -> Result<String> {
        let literal = Marker::literal(&Marker::new(marker, tokenizer)?.parts);
        Ok(format!("{name}: {}\n", if literal.is_empty() { "\"\"" } else { &literal }))
    };
    let mut lark = String::new();
    let several = if wanted.only_one { "" } else { " (between call)*" };
    lark.push_str(&format!("start: lead open call{several} close\n"));
    if !wanted.only_one {
        lark.push_str(&rule("between", &wanted.between)?);
    }
    lark.push_str(&rule("open", &wanted.open)?);
    lark.push_str(&rule("close", &wanted.close)?);
    lark.push_str(BLANKS);
    match &wanted.reasoning {
        Some(reasoning) => {
            lark.push_str("lead: (reasoning thought)? BLANKS?\n");
            lark.push_str(&rule("reasoning", &reasoning.open)?);
            Marker::new(&reasoning.close, tokenizer)?.after_free_text("thought", &mut lark);
            lark.push_str(&free_terminal());
        }
        None => lark.push_str("lead: BLANKS?\n"),
    }
    let names: Vec<String> = (0..wanted.calls.len()).map(|i| format!("call{i}")).collect();
    lark.push_str(&format!("call: {}\n", names.join(" | ")));
    for (i, call) in wanted.calls.iter().enumerate() {
        lark.push_str(&rule(&format!("begin{i}"), &call.begin)?);
        lark.push_str(&rule(&format!("end{i}"), &call.end)?);
        match &wanted.notation {
            None => lark.push_str(&format!("args{i}: %json {}\n", schema(&call.schema)?)),
            Some(notation) => {
                let parameters: Value = read(&call.schema, "the JSON schema is not JSON")?;
                arguments(&format!("args{i}"), &parameters, notation, tokenizer, &mut lark).map_err(
                    |error| {
                        let begin = shown(call.begin.trim(), 100);
                        invalid(format!("the tool of {begin}: {}", error.message))
                    },
                )?;
            }
        }
        lark.push_str(&format!("call{i}: begin{i} args{i} end{i}\n"));
    }
    Ok(GrammarWithLexer::from_lark(lark))
}
