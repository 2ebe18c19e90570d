// Streams a tale from the server at argv[1].
#include <iostream>

#include "client/call_error.h"
#include "client/generation_client.h"

int main(int, char** argv) {
  kvasir::GenerationClient client({.target = argv[1]});
  kvasir::v1::GenerateRequest request;
  request.set_text("Once upon a time");
  request.mutable_sampling()->set_temperature(0);
  request.mutable_stopping()->set_max_tokens(12);
  const auto result = client.Generate(request, {}, [](const kvasir::v1::Delta& delta) {
    std::cout << delta.text() << std::flush;
    return true;
  });
  if (!result.ok()) {
    std::cerr << kvasir::DescribeError(result.status()) << "\n";
    return 1;
  }
  return 0;
}
