// kvasir: the command line of kvasird. Each command is a file in commands/; this one finds it.
#include <iostream>
#include <string>
#include <vector>

#include "absl/strings/str_format.h"
#include "base/spelling.h"
#include "client/commands/command.h"

namespace kvasir {
namespace {

struct Command {
  const char* name;
  const char* summary;
  int (*run)(const Arguments& arguments);
};

constexpr Command kCommands[] = {
    {"generate", "generate text from a prompt", RunGenerate},
    {"chat", "talk with a model on a session", RunChat},
    {"render", "the prompt that a chat template makes of a conversation", RunRender},
    {"models", "list the served models and what their KV cache costs", RunModels},
    {"tokenize", "text to token ids", RunTokenize},
    {"detokenize", "token ids to text", RunDetokenize},
    {"score", "mean negative log-likelihood of a text file", RunScore},
    {"bench", "many users at once: latencies, rates, cache reuse", RunBench},
    {"pull", "download a model by its name on a hub", RunPull},
    {"convert", "a checkpoint with fewer K/V heads, fewer K/V layers or smaller weights",
     RunConvert},
    {"sessions", "list, show, fork or delete sessions", RunSessions},
    {"requests", "list running and waiting requests", RunRequests},
    {"abort", "stop a request", RunAbort},
    {"top", "watch requests, sessions and the KV pool", RunTop},
    {"stats", "requests, tokens and KV pool of each model", RunStats},
    {"health", "ask whether the daemon is serving (exit code 0 = yes)", RunHealth},
    {"admin", "load and unload models while the daemon serves", RunAdmin},
    {"drain", "let the daemon finish its requests and exit", RunDrain},
};

void PrintOverview(std::ostream& out) {
  out << "usage: kvasir COMMAND [flags]\n\ncommands:\n";
  for (const Command& command : kCommands)
    out << absl::StrFormat("  %-11s %s\n", command.name, command.summary);
  out << "\nAll commands but pull and convert, which work on files, take --server H:P (default "
         "$KVASIR_SERVER, else 127.0.0.1:50051)\nand --timeout. All take --json.\n"
         "'kvasir COMMAND --help' explains a command. Exit codes: 0 done, 1 the call failed, 2 bad "
         "command line.\n";
}

int Main(const std::vector<std::string>& words) {
  if (words.empty()) {
    PrintOverview(std::cerr);
    return kExitUsage;
  }
  if (words[0] == "--help" || words[0] == "-h" || words[0] == "help") {
    PrintOverview(std::cout);
    return kExitOk;
  }
  if (words[0] == "--version") {
    std::cout << "kvasir " KVASIR_VERSION << std::endl;
    return kExitOk;
  }
  std::vector<std::string> names;
  for (const Command& command : kCommands) {
    if (words[0] == command.name) return command.run({words.begin() + 1, words.end()});
    names.push_back(command.name);
  }
  const std::string nearest = DidYouMean(words[0], names);
  std::cerr << "kvasir: unknown command '" << words[0] << "'"
            << (nearest.empty() ? "; 'kvasir --help' lists them" : nearest) << "\n";
  return kExitUsage;
}

}  // namespace
}  // namespace kvasir

int main(int argc, char** argv) { return kvasir::Main({argv + 1, argv + argc}); }
