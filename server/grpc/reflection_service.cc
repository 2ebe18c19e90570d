#include "server/grpc/reflection_service.h"

#include <algorithm>
#include <set>

#include "absl/strings/str_cat.h"
#include "base/quoted.h"
#include "google/protobuf/descriptor.h"
#include "google/protobuf/descriptor.pb.h"

namespace kvasir {
namespace {

using google::protobuf::DescriptorPool;
using google::protobuf::FileDescriptor;
using grpc::reflection::v1::ServerReflectionRequest;
using grpc::reflection::v1::ServerReflectionResponse;

void AddFile(const FileDescriptor* file, std::set<const FileDescriptor*>* seen,
             grpc::reflection::v1::FileDescriptorResponse* out) {
  if (!seen->insert(file).second) return;
  google::protobuf::FileDescriptorProto proto;
  file->CopyTo(&proto);
  out->add_file_descriptor_proto(proto.SerializeAsString());
  for (int i = 0; i < file->dependency_count(); ++i) AddFile(file->dependency(i), seen, out);
}

void NotFound(const std::string& what, ServerReflectionResponse* answer) {
  auto* error = answer->mutable_error_response();
  error->set_error_code(static_cast<int>(grpc::StatusCode::NOT_FOUND));
  error->set_error_message(absl::StrCat("there is no ", what));
}

// Answers one question after the other.
class Reactor final
    : public grpc::ServerBidiReactor<ServerReflectionRequest, ServerReflectionResponse> {
 public:
  explicit Reactor(const ReflectionService& service) : service_(service) { StartRead(&question_); }

  void OnReadDone(bool ok) override {
    if (!ok) return Finish(grpc::Status::OK);
    answer_ = service_.Answer(question_);
    StartWrite(&answer_);
  }
  void OnWriteDone(bool ok) override {
    if (!ok) return Finish(grpc::Status::CANCELLED);
    StartRead(&question_);
  }
  void OnDone() override { delete this; }

 private:
  const ReflectionService& service_;
  ServerReflectionRequest question_;
  ServerReflectionResponse answer_;
};

}  // namespace

ServerReflectionResponse ReflectionService::Answer(const ServerReflectionRequest& question) const {
  ServerReflectionResponse answer;
  answer.set_valid_host(question.host());
  *answer.mutable_original_request() = question;
  const DescriptorPool* const pool = DescriptorPool::generated_pool();
  const auto send_file = [&answer](const FileDescriptor* file, const std::string& what) {
    if (file == nullptr) return NotFound(what, &answer);
    std::set<const FileDescriptor*> seen;
    AddFile(file, &seen, answer.mutable_file_descriptor_response());
  };
  switch (question.message_request_case()) {
    case ServerReflectionRequest::kListServices:
      for (const std::string& name : names_) {
        answer.mutable_list_services_response()->add_service()->set_name(name);
      }
      break;
    case ServerReflectionRequest::kFileByFilename:
      send_file(pool->FindFileByName(question.file_by_filename()),
                absl::StrCat("file ", Quoted(question.file_by_filename(), 256)));
      break;
    case ServerReflectionRequest::kFileContainingSymbol:
      send_file(pool->FindFileContainingSymbol(question.file_containing_symbol()),
                absl::StrCat("symbol ", Quoted(question.file_containing_symbol(), 256)));
      break;
    case ServerReflectionRequest::kFileContainingExtension: {
      const auto& wanted = question.file_containing_extension();
      const auto* type = pool->FindMessageTypeByName(wanted.containing_type());
      const auto* extension =
          type == nullptr ? nullptr : pool->FindExtensionByNumber(type, wanted.extension_number());
      send_file(extension == nullptr ? nullptr : extension->file(),
                absl::StrCat("extension ", wanted.extension_number(), " of ",
                             Quoted(wanted.containing_type(), 256)));
      break;
    }
    case ServerReflectionRequest::kAllExtensionNumbersOfType: {
      const std::string& name = question.all_extension_numbers_of_type();
      const auto* type = pool->FindMessageTypeByName(name);
      if (type == nullptr) {
        NotFound(absl::StrCat("message ", Quoted(name, 256)), &answer);
        break;
      }
      auto* numbers = answer.mutable_all_extension_numbers_response();
      numbers->set_base_type_name(name);
      std::vector<const google::protobuf::FieldDescriptor*> extensions;
      pool->FindAllExtensions(type, &extensions);
      for (const auto* extension : extensions) numbers->add_extension_number(extension->number());
      break;
    }
    case ServerReflectionRequest::MESSAGE_REQUEST_NOT_SET: {
      auto* error = answer.mutable_error_response();
      error->set_error_code(static_cast<int>(grpc::StatusCode::INVALID_ARGUMENT));
      error->set_error_message("the request asks nothing; set one of its fields");
      break;
    }
  }
  return answer;
}

grpc::ServerBidiReactor<ServerReflectionRequest, ServerReflectionResponse>*
ReflectionService::ServerReflectionInfo(grpc::CallbackServerContext*) {
  return new Reactor(*this);
}

}  // namespace kvasir
