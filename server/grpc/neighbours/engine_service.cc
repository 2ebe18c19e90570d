#include "server/grpc/neighbours/engine_service.h"

#include <algorithm>
#include <memory>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/status_macros.h"
#include "base/steady_time.h"
#include "grpcpp/alarm.h"
#include "server/frontend/model_description.h"
#include "server/frontend/request_id.h"
#include "server/grpc/neighbours/engine_answer.h"
#include "server/grpc/neighbours/neighbour_call.h"
#include "server/grpc/neighbours/tokenizer_archive.h"
#include "server/grpc/unary_call.h"

namespace kvasir {
namespace {

namespace pb = ::vllm::grpc::engine;
namespace common = ::smg::grpc::common;

// Of the archive of a tokenizer, in one message.
constexpr size_t kChunkBytes = 1 << 20;
// How often a subscriber's stream looks for news, and how many events go into one batch.
constexpr absl::Duration kEventInterval = absl::Milliseconds(50);
constexpr size_t kMaxBatchEvents = 256;

absl::Status OperatorsOnly() {
  return absl::PermissionDeniedError(
      "this tells of everybody's work; it is for tenants with admin: true");
}

// Sends messages that are all there, one after the other; or refuses.
class ListReactor final : public grpc::ServerWriteReactor<grpc::ByteBuffer> {
 public:
  explicit ListReactor(std::vector<grpc::ByteBuffer> messages) : messages_(std::move(messages)) {
    Next();
  }
  explicit ListReactor(const grpc::Status& refusal) { Finish(refusal); }

  void OnWriteDone(bool ok) override {
    if (!ok) return Finish(grpc::Status::CANCELLED);
    Next();
  }
  void OnDone() override { delete this; }

 private:
  void Next() {
    if (next_ == messages_.size()) return Finish(grpc::Status::OK);
    StartWrite(&messages_[next_++]);
  }

  std::vector<grpc::ByteBuffer> messages_;
  size_t next_ = 0;
};

// Block hashes are signed on this wire.
int64_t Hash(uint64_t block) { return static_cast<int64_t>(block); }

void Add(const PrefixEvent& event, common::KvEventBatch* batch) {
  common::KvCacheEvent* const out = batch->add_events();
  out->set_event_id(event.sequence);
  if (!event.stored) {
    out->mutable_removed()->add_block_hashes(Hash(event.block));
    return;
  }
  common::KvBlocksStored* const stored = out->mutable_stored();
  if (event.parent) stored->set_parent_block_hash(Hash(*event.parent));
  common::KvBlock* const block = stored->add_blocks();
  block->set_block_hash(Hash(event.block));
  block->set_block_size(static_cast<int32_t>(event.tokens.size()));
  for (const int32_t id : event.tokens) block->add_token_ids(static_cast<uint32_t>(id));
}

// Follows a prefix cache until the client leaves or the model does. A subscriber that missed events
// is told that the cache was cleared, and goes on from what is still known.
class EventReactor final : public grpc::ServerWriteReactor<grpc::ByteBuffer> {
 public:
  EventReactor(const ServedModelRef& served, const std::atomic<bool>& draining, uint64_t first)
      : served_(served), draining_(draining), next_(std::max<uint64_t>(first, 1)) {
    StartSendInitialMetadata();
    Look();
  }

  void OnWriteDone(bool ok) override {
    if (!ok) return Finish(grpc::Status::CANCELLED);
    Look();
  }
  // The alarm notices, or the write that fails.
  void OnCancel() override { cancelled_ = true; }
  void OnDone() override { delete this; }

 private:
  void Look() {
    if (cancelled_) return Finish(grpc::Status::CANCELLED);
    if (draining_.load()) {
      return Finish(grpc::Status(grpc::StatusCode::UNAVAILABLE, "the daemon is shutting down"));
    }
    const ServedModelRef served = served_.lock();
    if (served == nullptr || served->unloading.load()) {
      return Finish(grpc::Status(grpc::StatusCode::UNAVAILABLE, "the model is being unloaded"));
    }
    bool lost = false;
    const std::vector<PrefixEvent> events =
        served->engine->prefix_events().Read(next_, kMaxBatchEvents, &lost);
    if (events.empty()) {
      alarm_.Set(absl::ToChronoTime(absl::Now() + kEventInterval), [this](bool) { Look(); });
      return;
    }
    common::KvEventBatch batch;
    batch.set_sequence_number(events.back().sequence);
    batch.set_timestamp(absl::ToDoubleSeconds(absl::Now() - absl::UnixEpoch()));
    batch.set_dp_rank(0);
    if (lost) batch.add_events()->mutable_cleared();
    for (const PrefixEvent& event : events) Add(event, &batch);
    next_ = events.back().sequence + 1;
    out_ = SerializeWire(batch);
    StartWrite(&out_);
  }

  const std::weak_ptr<ServedModel> served_;  // a slow client must not keep it
  const std::atomic<bool>& draining_;
  std::atomic<bool> cancelled_{false};
  uint64_t next_;
  grpc::ByteBuffer out_;
  grpc::Alarm alarm_;
};

}  // namespace

VllmEngineService::VllmEngineService(const ServiceEnvironment& environment, std::string version)
    : frontend_(environment), version_(std::move(version)), started_(SteadyNow()) {}

absl::StatusOr<ServedModelRef> VllmEngineService::Model(const Caller& caller) const {
  return frontend_.environment().models->Find("", caller);
}

grpc::ServerWriteReactor<grpc::ByteBuffer>* VllmEngineService::Generate(
    grpc::CallbackServerContext* context, const grpc::ByteBuffer* request) {
  return StreamNeighbour(frontend_, context, *request, pb::GenerateRequest::kRequestIdFieldNumber,
                         [](const grpc::ByteBuffer& wire, const Caller&,
                            const TextJob&) -> absl::StatusOr<NeighbourRequest> {
                           pb::GenerateRequest wanted;
                           KVASIR_RETURN_IF_ERROR(ParseKnown(wire, &wanted));
                           return ReadEngineRequest(std::move(wanted));
                         });
}

grpc::ServerUnaryReactor* VllmEngineService::HealthCheck(grpc::CallbackServerContext* context,
                                                         const grpc::ByteBuffer*,
                                                         grpc::ByteBuffer* reply) {
  pb::HealthCheckResponse health;
  health.set_healthy(!frontend_.environment().draining->load());
  health.set_message(health.healthy() ? "serving" : "draining");
  *reply = SerializeWire(health);
  grpc::ServerUnaryReactor* const reactor = context->DefaultReactor();
  reactor->Finish(grpc::Status::OK);
  return reactor;
}

grpc::ServerUnaryReactor* VllmEngineService::Abort(grpc::CallbackServerContext* context,
                                                   const grpc::ByteBuffer* request,
                                                   grpc::ByteBuffer* reply) {
  return AnswerOn<pb::AbortRequest>(
      frontend_.environment(), context, request, reply,
      [this](const pb::AbortRequest& wanted,
             const Caller& caller) -> absl::StatusOr<pb::AbortResponse> {
        for (const std::string& id : wanted.request_ids()) {
          v1::AbortRequest abort;
          abort.set_request_id(id);
          const auto aborted = frontend_.Abort(abort, caller);
          if (!aborted.ok() && !absl::IsNotFound(aborted.status())) return aborted.status();
        }
        return pb::AbortResponse();
      });
}

grpc::ServerUnaryReactor* VllmEngineService::GetModelInfo(grpc::CallbackServerContext* context,
                                                          const grpc::ByteBuffer* request,
                                                          grpc::ByteBuffer* reply) {
  return AnswerNow<pb::GetModelInfoRequest>(
      frontend_.environment(), context, request, reply,
      [this](const pb::GetModelInfoRequest&,
             const Caller& caller) -> absl::StatusOr<pb::GetModelInfoResponse> {
        KVASIR_ASSIGN_OR_RETURN(const ServedModelRef served, Model(caller));
        const v1::Model model = DescribeModel(*served);
        pb::GetModelInfoResponse info;
        // Where the files are on this machine is nobody's business: GetTokenizer sends them.
        info.set_model_path(model.name());
        info.set_tokenizer_path(model.name());
        info.set_served_model_name(model.name());
        info.set_is_generation(true);
        info.set_max_context_length(static_cast<uint32_t>(model.context_tokens()));
        info.set_max_req_input_len(model.context_tokens());
        info.set_vocab_size(static_cast<uint32_t>(model.vocab_size()));
        info.add_architectures(model.architecture());
        *info.mutable_eos_token_ids() = model.eos_token_ids();
        return info;
      });
}

grpc::ServerUnaryReactor* VllmEngineService::GetServerInfo(grpc::CallbackServerContext* context,
                                                           const grpc::ByteBuffer* request,
                                                           grpc::ByteBuffer* reply) {
  return AnswerNow<pb::GetServerInfoRequest>(
      frontend_.environment(), context, request, reply,
      [this](const pb::GetServerInfoRequest&,
             const Caller& caller) -> absl::StatusOr<pb::GetServerInfoResponse> {
        KVASIR_ASSIGN_OR_RETURN(const ServedModelRef served, Model(caller));
        const v1::Model model = DescribeModel(*served);
        pb::GetServerInfoResponse info;
        if (caller.admin()) {
          const EngineStats stats = served->engine->stats();
          info.set_active_requests(static_cast<uint32_t>(stats.running + stats.waiting));
        }
        info.set_uptime_seconds(absl::ToDoubleSeconds(SteadyNow() - started_));
        info.set_server_type("vllm-grpc");  // what clients of this protocol look for
        info.set_data_parallel_size(1);
        info.set_kv_cache_dtype(model.kv_element_type());
        info.set_block_size(model.block_tokens());
        info.set_model_dtype(model.compute_type());
        info.set_max_num_seqs(served->engine->config().max_running);
        return info;
      });
}

grpc::ServerUnaryReactor* VllmEngineService::GetLoads(grpc::CallbackServerContext* context,
                                                      const grpc::ByteBuffer* request,
                                                      grpc::ByteBuffer* reply) {
  return AnswerNow<pb::GetLoadsRequest>(
      frontend_.environment(), context, request, reply,
      [this](const pb::GetLoadsRequest&,
             const Caller& caller) -> absl::StatusOr<pb::GetLoadsResponse> {
        if (!caller.admin()) return OperatorsOnly();
        KVASIR_ASSIGN_OR_RETURN(const ServedModelRef served, Model(caller));
        const EngineStats stats = served->engine->stats();
        pb::GetLoadsResponse loads;
        loads.set_timestamp(absl::FormatTime(absl::RFC3339_sec, absl::Now(), absl::UTCTimeZone()));
        loads.set_version(version_);
        loads.set_dp_rank_count(1);
        pb::SchedulerLoad* const load = loads.add_loads();
        load->set_num_running_reqs(static_cast<int32_t>(stats.running));
        load->set_num_waiting_reqs(static_cast<int32_t>(stats.waiting));
        load->set_num_total_reqs(static_cast<int32_t>(stats.running + stats.waiting));
        // Tokens whose K/V would fill as many bytes; windows and states make it a measure only.
        const double block_bytes = static_cast<double>(std::max<int64_t>(1, stats.kv_block_bytes));
        const double tokens_per_byte =
            static_cast<double>(served->engine->kv_layout().block_tokens()) / block_bytes;
        const auto tokens = [&](int64_t bytes) {
          return static_cast<int32_t>(
              std::min<double>(static_cast<double>(bytes) * tokens_per_byte, INT32_MAX));
        };
        load->set_num_used_tokens(tokens(stats.kv_live_bytes));
        load->set_max_total_num_tokens(tokens(stats.kv_capacity_bytes));
        load->set_token_usage(static_cast<double>(stats.kv_live_bytes) /
                              static_cast<double>(std::max<int64_t>(1, stats.kv_capacity_bytes)));
        load->set_cache_hit_rate(
            static_cast<double>(stats.cached_tokens_total) /
            static_cast<double>(std::max<int64_t>(1, stats.prompt_tokens_total)));
        const int32_t most = served->engine->config().max_running;
        load->set_max_running_requests(most);
        load->set_utilization(static_cast<double>(stats.running) / std::max(1, most));
        return loads;
      });
}

grpc::ServerWriteReactor<grpc::ByteBuffer>* VllmEngineService::GetTokenizer(
    grpc::CallbackServerContext* context, const grpc::ByteBuffer*) {
  const auto messages = [&]() -> absl::StatusOr<std::vector<grpc::ByteBuffer>> {
    KVASIR_ASSIGN_OR_RETURN(const Caller caller, frontend_.environment().authenticator->Identify(
                                                     CallCredentials(*context)));
    KVASIR_ASSIGN_OR_RETURN(const ServedModelRef served, Model(caller));
    KVASIR_ASSIGN_OR_RETURN(const TokenizerArchive archive,
                            ArchiveTokenizer(served->path, served->name));
    std::vector<grpc::ByteBuffer> chunks;
    for (size_t at = 0; at < archive.zip.size(); at += kChunkBytes) {
      common::GetTokenizerChunk chunk;
      chunk.set_data(archive.zip.substr(at, kChunkBytes));
      if (at + kChunkBytes >= archive.zip.size()) chunk.set_sha256(archive.sha256);
      chunks.push_back(SerializeWire(chunk));
    }
    return chunks;
  }();
  if (messages.ok()) return new ListReactor(*std::move(messages));
  return new ListReactor(ToGrpcStatus(messages.status(), RequestIdOrNew(RequestIdOf(*context))));
}

grpc::ServerWriteReactor<grpc::ByteBuffer>* VllmEngineService::SubscribeKvEvents(
    grpc::CallbackServerContext* context, const grpc::ByteBuffer* request) {
  common::SubscribeKvEventsRequest wanted;
  const auto served = [&]() -> absl::StatusOr<ServedModelRef> {
    KVASIR_ASSIGN_OR_RETURN(const Caller caller, frontend_.environment().authenticator->Identify(
                                                     CallCredentials(*context)));
    if (!caller.admin()) return OperatorsOnly();
    KVASIR_RETURN_IF_ERROR(ParseWire(*request, &wanted));
    return Model(caller);
  }();
  if (served.ok()) {
    return new EventReactor(*served, *frontend_.environment().draining,
                            wanted.start_sequence_number());
  }
  return new ListReactor(ToGrpcStatus(served.status(), RequestIdOrNew(RequestIdOf(*context))));
}

}  // namespace kvasir
