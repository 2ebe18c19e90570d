// kvasir tokenize and kvasir detokenize: text to token ids and back, with the tokenizer of a served
// model.
#include <iostream>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "client/commands/command.h"
#include "client/json_output.h"

namespace kvasir {

int RunTokenize(const Arguments& arguments) {
  CommandLine line("tokenize", "[flags] [TEXT | --file FILE]", "Prints the token ids of a text.");
  v1::TokenizeRequest request;
  std::string model;
  std::optional<std::string> file;
  std::optional<bool> add_special_tokens, parse_special_tokens;
  line.flags().Add("model", "M",
                   "model whose tokenizer to use; may be absent when the daemon serves one",
                   &model);
  line.flags().Add("file", "FILE", "read the text from a file; - = standard input", &file);
  line.flags().Add("add_special_tokens", "=false leaves out the tokenizer's BOS",
                   &add_special_tokens);
  line.flags().Add("parse_special_tokens", "text that spells a special token is that token",
                   &parse_special_tokens);
  if (const auto exit_code = line.Parse(arguments)) return *exit_code;
  if (file.has_value() != line.positional().empty())
    return line.UsageError("give exactly one of TEXT and --file");

  std::string text = absl::StrJoin(line.positional(), " ");
  if (file.has_value()) {
    auto content = ReadTextFile(*file);
    if (!content.ok()) return line.Fail(content.status());
    text = *std::move(content);
  }
  request.set_model(model);
  request.set_text(text);
  if (add_special_tokens) request.set_add_special_tokens(*add_special_tokens);
  if (parse_special_tokens) request.set_parse_special_tokens(*parse_special_tokens);
  const auto ids = line.MakeClient()->Tokenize(request, line.MakeCallOptions());
  if (!ids.ok()) return line.Fail(ids.status());
  if (line.json()) {
    std::cout << DumpJson({{"tokens", ids->size()}, {"token_ids", *ids}}) << std::endl;
  } else {
    std::cout << absl::StrJoin(*ids, ",") << std::endl;
  }
  return kExitOk;
}

int RunDetokenize(const Arguments& arguments) {
  CommandLine line("detokenize", "[flags] 1,2,3", "Prints the text of token ids.");
  v1::DetokenizeRequest request;
  std::string model;
  std::optional<bool> skip_special_tokens;
  line.flags().Add("model", "M",
                   "model whose tokenizer to use; may be absent when the daemon serves one",
                   &model);
  line.flags().Add("skip_special_tokens", "leave special tokens out of the text",
                   &skip_special_tokens);
  if (const auto exit_code = line.Parse(arguments)) return *exit_code;
  if (line.positional().size() != 1)
    return line.UsageError("give the token ids with commas between them");
  const auto ids = ParseTokenIds(line.positional()[0]);
  if (!ids.ok()) return line.UsageError(std::string(ids.status().message()));

  request.set_model(model);
  request.mutable_token_ids()->Add(ids->begin(), ids->end());
  if (skip_special_tokens) request.set_skip_special_tokens(*skip_special_tokens);
  const auto text = line.MakeClient()->Detokenize(request, line.MakeCallOptions());
  if (!text.ok()) return line.Fail(text.status());
  if (line.json()) {
    std::cout << DumpJson({{"text", *text}}) << std::endl;
  } else {
    std::cout << *text << std::endl;
  }
  return kExitOk;
}

}  // namespace kvasir
