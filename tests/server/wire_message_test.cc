#include "server/grpc/wire_message.h"

#include "gmock/gmock.h"
#include "google/protobuf/util/message_differencer.h"
#include "grpcpp/support/slice.h"
#include "gtest/gtest.h"
#include "kvasir/v1/generation.pb.h"
#include "tests/server/error_details.h"

namespace kvasir {
namespace {

using ::kvasir::testing::ViolationOf;
using ::testing::AllOf;
using ::testing::HasSubstr;

grpc::ByteBuffer Buffer(const std::vector<std::string>& parts) {
  std::vector<grpc::Slice> slices;
  for (const std::string& part : parts) slices.emplace_back(part);
  return grpc::ByteBuffer(slices.data(), slices.size());
}

// `text` as field `number`, length-delimited; short enough for one-byte tags and lengths.
std::string Field(int number, const std::string& text) {
  std::string bytes;
  bytes.push_back(static_cast<char>(number << 3 | 2));
  bytes.push_back(static_cast<char>(text.size()));
  bytes += text;
  return bytes;
}

TEST(WireMessageTest, RoundTripsAlsoInPieces) {
  v1::GenerateRequest message;
  message.set_model("m");
  message.set_text("grüß dich");
  message.mutable_sampling()->set_temperature(0.5f);
  v1::GenerateRequest back;
  ASSERT_TRUE(ParseWire(SerializeWire(message), &back).ok());
  EXPECT_TRUE(google::protobuf::util::MessageDifferencer::Equals(back, message));

  const std::string bytes = message.SerializeAsString();
  for (size_t cut = 0; cut <= bytes.size(); ++cut) {
    ASSERT_TRUE(ParseWire(Buffer({bytes.substr(0, cut), bytes.substr(cut)}), &back).ok());
    EXPECT_EQ(back.text(), message.text());
  }
}

TEST(WireMessageTest, AnEmptyMessageIsOneWithoutFields) {
  v1::ListModelsRequest message;
  EXPECT_TRUE(ParseWire(SerializeWire(message), &message).ok());
  EXPECT_TRUE(ParseWire(Buffer({""}), &message).ok());
}

TEST(WireMessageTest, PeeksAtAField) {
  constexpr int kId = v1::GenerateRequest::kRequestIdFieldNumber;
  v1::GenerateRequest message;
  message.set_text(std::string(100000, 'x'));
  EXPECT_EQ(PeekString(SerializeWire(message), kId), "");
  message.set_request_id("mine");
  message.mutable_sampling()->set_temperature(1);
  message.set_priority(3);
  EXPECT_EQ(PeekString(SerializeWire(message), kId), "mine");
  const std::string bytes = message.SerializeAsString();
  EXPECT_EQ(PeekString(Buffer({bytes.substr(0, 50), bytes.substr(50)}), kId), "mine");
  // Whatever the bytes are, and at a price that does not grow with them.
  for (size_t end = bytes.size() - 30; end < bytes.size(); ++end) {
    const std::string id = PeekString(Buffer({bytes.substr(0, end)}), kId);
    EXPECT_TRUE(id.empty() || id == "mine") << end;
  }
  EXPECT_EQ(PeekString(grpc::ByteBuffer(), kId), "");
  EXPECT_EQ(PeekString(Buffer({"\xff\xff\xff\xff\xff\xff"}), kId), "");
  EXPECT_EQ(PeekString(Buffer({Field(kId, "").substr(0, 1) + "\xff\xff\xff\xff\x0f"}), kId), "");
  std::string many;
  for (int i = 0; i < 1000; ++i) many += Field(1, "m");
  EXPECT_EQ(PeekString(Buffer({many, Field(kId, "late")}), kId), "");
}

TEST(WireMessageTest, BadUtf8NamesFieldAndOffset) {
  v1::GenerateRequest message;
  const absl::Status status =
      ParseWire(Buffer({Field(1, "model"), Field(2, "good \xC3\x28")}), &message);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(ViolationOf(status, "text"), AllOf(HasSubstr("0xc3"), HasSubstr("offset 5")));
}

TEST(WireMessageTest, BadUtf8IsFoundInsideMessages) {
  v1::GenerateRequest message;
  const std::string stopping = Field(3, "fine") + Field(3, "\xED\xA0\x80");  // a surrogate
  const absl::Status status = ParseWire(Buffer({Field(6, stopping)}), &message);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(ViolationOf(status, "stopping.stop"), HasSubstr("offset 0"));

  const std::string chat = Field(1, Field(1, "user") + Field(2, "x\xFF"));
  EXPECT_THAT(
      ViolationOf(ParseWire(Buffer({Field(4, chat)}), &message), "messages.messages.content"),
      HasSubstr("offset 1"));
}

TEST(WireMessageTest, BytesThatAreNoMessageAreInvalidArgument) {
  v1::GenerateRequest message;
  for (const std::string& bytes :
       {std::string("\x0A\x05mod", 5),
        std::string("\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF", 11), std::string("\x0B", 1),
        std::string("\x0A\xFF\xFF\xFF\xFF\x0F", 6)}) {
    const absl::Status status = ParseWire(Buffer({bytes}), &message);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(status.message()), HasSubstr("kvasir.v1.GenerateRequest"));
  }
}

}  // namespace
}  // namespace kvasir
