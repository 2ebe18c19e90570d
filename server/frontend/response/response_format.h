// What a family of models writes beside plain text, as data: which markers begin and end its
// reasoning and its tool calls, and in what notation a call stands between them. One parser
// (response_parser.h) reads them all.
//
// The families and their markers: docs/tools.md. Plain values, constant after loading.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace kvasir {

// What the text of a region is to the client.
enum class ResponsePart {
  kReasoning,
  kCalls,
  kDropped,  // the marker alone: it says nothing to a client
  kHeader,   // gpt-oss: says what the message after it is
};

enum class CallSyntax {
  kJson,           // {"name": "f", "arguments": {...}}, "parameters" for arguments, or a list
  kNamedJson,      // f, a marker, and the arguments as a JSON object
  kArguments,      // the arguments as a JSON object; the header had the name
  kXmlParameters,  // <function=f><parameter=k>v</parameter></function>
  kArgPairs,       // f <arg_key>k</arg_key><arg_value>v</arg_value>
  kLooseObject,    // call:f{k:<|"|>v<|"|>,n:1}
  kPythonCalls,    // [f(a=1), g(b='x')], or one on a line
};

struct ResponseRegion {
  ResponsePart part = ResponsePart::kDropped;
  std::vector<std::string> open;  // any of these begins it; none is empty
  // Any of these ends it. Calls whose notation shows where it ends may do without; else empty means
  // the end of the text.
  std::vector<std::string> close = {};
  CallSyntax syntax = CallSyntax::kJson;
  bool at_start = false;   // begins only where nothing but white space and regions stand before it
  bool keep_open = false;  // the opening literal is the body's first part, as in "{"
  // Without a marker of its own, what names no tool of the request is text.
  bool known_names_only = false;
  std::string separator = {};       // kJson: between several calls in one region
  std::string head_separator = {};  // kNamedJson: between name and arguments
  // kNamedJson: may stand between arguments and close; kXmlParameters: after close.
  std::string tail = {};
};

// How arguments are spelled that are not a JSON object.
struct ArgumentWriting {
  // Strings as they are, up to `after`; between two `mark`s; as JSON. Other values are JSON, but
  // for Python's True and False.
  enum class Strings { kRaw, kMarked, kPython };

  static constexpr char kName[] = "{}";  // stands for the parameter's name in `before`

  std::string before, after;
  std::string between = {};
  Strings strings = Strings::kRaw;
  std::string mark = {};
  // What no string can spell, for a reader takes it for the string's end.
  std::vector<std::string> forbidden = {};
};

// How calls are spelled when the model must make some: a grammar lets it write nothing else. The
// arguments stand between `begin` and `end` of each call.
struct CallWriting {
  // Stands for the tool's name in `begin`.
  static constexpr char kName[] = "{}";

  std::string open = {};                          // before the first call
  std::string begin;                              // with kName
  std::string end;                                // may be empty
  std::string between = {};                       // two calls
  std::string close = {};                         // after the last call
  bool only_one = false;                          // the model's turn ends with its first call
  std::optional<ArgumentWriting> arguments = {};  // absent: a JSON object
};

struct ResponseFormat {
  // As configuration and GetModel spell it: "hermes", "mistral", ...; "none": nothing is parsed.
  std::string name = "none";
  std::vector<ResponseRegion> regions = {};

  // gpt-oss: a header (kHeader region) makes its message reasoning, content or a call; each ends
  // where this region does.
  ResponseRegion message = {};

  // Markers inside of calls: the parser must see them, as those of the regions.
  std::vector<std::string> body_markers = {};
  // Absent: no calls, or a model's own notation, for which there is no grammar.
  std::optional<CallWriting> writing = {};
  // Reasoning that is not a region: of gpt-oss. What opens and what ends it.
  std::string written_reasoning_open = {}, written_reasoning_close = {};
  // Call ids have nine letters and digits, as Mistral's templates demand.
  bool short_ids = false;

  bool parses() const { return !regions.empty(); }
  bool has_calls() const;
  // What opens reasoning; null when the format knows none.
  const ResponseRegion* reasoning() const;
  // All literals, for finding the special tokens among them.
  std::vector<std::string> Markers() const;
};

// "hermes", "qwen3_coder", "llama3", ..., for messages and documentation; without "none".
std::vector<std::string> ResponseFormatNames();

// `name`: one of those, or "none". `reasoning`: with <think> where the family does not say
// otherwise. InvalidArgument, naming the formats, for another name.
absl::StatusOr<ResponseFormat> MakeResponseFormat(absl::string_view name, bool reasoning);

// The formats whose calls a grammar can make a model write.
std::vector<std::string> WritableFormatNames();

// The newer or the older spelling of calls, where a family has two: the one that is in the chat
// template.
void ChooseWriting(absl::string_view template_source, ResponseFormat* format);

// The format that a model's chat template speaks of. Where it leaves the markers to what the model
// has learnt, what `in_vocabulary` (whether there is such a token) and the architecture tell.
ResponseFormat DetectResponseFormat(absl::string_view template_source,
                                    const std::function<bool(absl::string_view)>& in_vocabulary,
                                    absl::string_view architecture);

}  // namespace kvasir
