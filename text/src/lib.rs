//! Tokenizers, chat templates and grammars of the output for kvasird. The C interface, with the contract of each call, is
//! `kvasir_text.h`; `abi` holds what its functions share. Each further part is a module of its own
//! with its functions in `<module>/ffi` or beside it.
//!
//! Rules of the crate: no thread pool, no printing, no shared state that changes, no panic across
//! the border.

pub mod abi;
pub mod added_tokens;
pub mod argument_grammar;
pub mod argument_text;
pub mod call_grammar;
pub mod chat_abi;
pub mod chat_template;
pub mod civil_time;
pub mod conversation;
pub mod decode_abi;
pub mod decode_bytes;
pub mod decode_stream;
pub mod decode_text;
pub mod error;
pub mod gguf_splits;
pub mod gguf_vocabulary;
pub mod grammar;
pub mod grammar_abi;
pub mod grammar_source;
pub mod jinja;
pub mod jinja_filters;
pub mod python_arguments;
pub mod python_format;
pub mod python_methods;
pub mod python_objects;
pub mod python_operators;
pub mod python_strings;
pub mod python_text;
pub mod schema_check;
pub mod schema_pattern;
pub mod sentencepiece;
pub mod template_operators;
pub mod template_source;
pub mod token_table;
pub mod tokenizer;
pub mod tokenizer_abi;
pub mod tokenizer_config;
