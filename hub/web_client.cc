#include "hub/web_client.h"

#include <curl/curl.h>

#include <algorithm>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/quoted.h"
#include "base/status_macros.h"
#include "hub/web_address.h"

namespace kvasir {
namespace {

constexpr int kMaxRedirects = 10;
constexpr size_t kMaxHeaders = 200;
constexpr size_t kMaxErrorBodyBytes = 64 << 10;

// Once, before any handle; never given back, for other threads may use curl until the end.
bool InitCurl() {
  static const bool done = curl_global_init(CURL_GLOBAL_DEFAULT) == CURLE_OK;
  return done;
}

bool IsSuccess(int status) { return status >= 200 && status < 300; }

bool IsRedirect(int status) {
  return status == 301 || status == 302 || status == 303 || status == 307 || status == 308;
}

// What curl's own failures mean to the caller.
absl::Status FailureOf(CURLcode code, const char* details, const std::string& where) {
  const std::string reason = *details != '\0' ? details : curl_easy_strerror(code);
  switch (code) {
    case CURLE_PEER_FAILED_VERIFICATION:
    case CURLE_SSL_CACERT_BADFILE:
    case CURLE_SSL_ISSUER_ERROR:
      return absl::FailedPreconditionError(
          absl::StrCat("the certificate of ", where, " is not trusted: ", reason,
                       "; install ca-certificates, or name its authority's PEM file in "
                       "SSL_CERT_FILE"));
    case CURLE_URL_MALFORMAT:
    case CURLE_UNSUPPORTED_PROTOCOL:
      return absl::InvalidArgumentError(absl::StrCat("cannot ask ", where, ": ", reason));
    case CURLE_ABORTED_BY_CALLBACK:
      return absl::CancelledError("interrupted");
    default:
      return absl::UnavailableError(absl::StrCat("cannot get from ", where, ": ", reason));
  }
}

}  // namespace

std::string WebResponse::Header(const std::string& name) const {
  const auto it = headers.find(name);
  return it == headers.end() ? "" : it->second;
}

// One request and what comes back of it.
struct WebClient::Exchange {
  CURL* curl = nullptr;
  const WebRequest* request = nullptr;
  const HeadSink* head = nullptr;
  const BodySink* body = nullptr;
  const std::atomic<bool>* cancelled = nullptr;
  WebResponse response;
  bool head_shown = false;
  absl::Status sink_status;

  void ReadStatus() {
    long status = 0;
    curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &status);
    response.status = static_cast<int>(status);
  }

  absl::Status Take(absl::string_view bytes) {
    ReadStatus();
    if (!IsSuccess(response.status)) {
      const size_t room = kMaxErrorBodyBytes - std::min(response.body.size(), kMaxErrorBodyBytes);
      absl::StrAppend(&response.body, bytes.substr(0, room));
      return absl::OkStatus();
    }
    KVASIR_RETURN_IF_ERROR(ShowHead());
    if (*body) return (*body)(bytes);
    if (response.body.size() + bytes.size() > request->max_body_bytes) {
      return absl::ResourceExhaustedError(absl::StrCat(request->url, " answers with more than the ",
                                                       request->max_body_bytes, " bytes expected"));
    }
    absl::StrAppend(&response.body, bytes);
    return absl::OkStatus();
  }

  absl::Status ShowHead() {
    if (head_shown || !*head) return absl::OkStatus();
    head_shown = true;
    return (*head)(response);
  }

  static size_t OnHeader(char* data, size_t, size_t size, void* self) {
    auto* exchange = static_cast<Exchange*>(self);
    const absl::string_view line(data, size);
    // Of each of several answers (100 Continue, a proxy's own) only the last counts.
    if (absl::string_view(data, std::min<size_t>(size, 5)) == "HTTP/") {
      exchange->response.headers.clear();
      return size;
    }
    const size_t colon = line.find(':');
    if (colon == absl::string_view::npos || exchange->response.headers.size() >= kMaxHeaders) {
      return size;
    }
    exchange->response.headers[absl::AsciiStrToLower(line.substr(0, colon))] =
        std::string(absl::StripAsciiWhitespace(line.substr(colon + 1)));
    return size;
  }

  static size_t OnBody(char* data, size_t, size_t size, void* self) {
    auto* exchange = static_cast<Exchange*>(self);
    exchange->sink_status = exchange->Take({data, size});
    return exchange->sink_status.ok() ? size : CURL_WRITEFUNC_ERROR;
  }

  static int OnProgress(void* self, curl_off_t, curl_off_t, curl_off_t, curl_off_t) {
    const auto* exchange = static_cast<Exchange*>(self);
    return exchange->cancelled != nullptr && exchange->cancelled->load() ? 1 : 0;
  }
};

WebClient::WebClient(Options options)
    : options_(std::move(options)), curl_(nullptr, curl_easy_cleanup) {
  KVASIR_CHECK(InitCurl());
  curl_.reset(curl_easy_init());
  KVASIR_CHECK(curl_ != nullptr);
}

WebClient::~WebClient() = default;

absl::Status WebClient::Perform(const WebRequest& request, const std::string& url, bool send_token,
                                Exchange* exchange) {
  KVASIR_ASSIGN_OR_RETURN(const WebOrigin origin, OriginOf(url));
  CURL* const curl = curl_.get();
  curl_easy_reset(curl);  // of all but its connections
  char details[CURL_ERROR_SIZE] = "";
  curl_easy_setopt(curl, CURLOPT_URL, url.c_str());
  curl_easy_setopt(curl, CURLOPT_ERRORBUFFER, details);
  curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
  curl_easy_setopt(curl, CURLOPT_PROTOCOLS_STR, "http,https");
  curl_easy_setopt(curl, CURLOPT_USERAGENT, options_.user_agent.c_str());
  curl_easy_setopt(curl, CURLOPT_CONNECTTIMEOUT_MS,
                   static_cast<long>(absl::ToInt64Milliseconds(options_.connect_timeout)));
  curl_easy_setopt(curl, CURLOPT_LOW_SPEED_LIMIT, 1L);
  curl_easy_setopt(curl, CURLOPT_LOW_SPEED_TIME,
                   std::max<long>(absl::ToInt64Seconds(options_.stall_timeout), 1));
  if (!options_.ca_file.empty()) curl_easy_setopt(curl, CURLOPT_CAINFO, options_.ca_file.c_str());
  if (!options_.ca_folder.empty()) {
    curl_easy_setopt(curl, CURLOPT_CAPATH, options_.ca_folder.c_str());
  }
  if (origin.IsLoopback()) curl_easy_setopt(curl, CURLOPT_PROXY, "");

  curl_slist* list = nullptr;
  // Bodies as they are: offsets and checksums are those of the file. Not the proxy's business.
  list = curl_slist_append(list, "Accept-Encoding: identity");
  if (send_token) {
    list = curl_slist_append(list,
                             absl::StrCat("Authorization: Bearer ", request.bearer_token).c_str());
  }
  const std::unique_ptr<curl_slist, void (*)(curl_slist*)> headers(list, curl_slist_free_all);
  curl_easy_setopt(curl, CURLOPT_HTTPHEADER, headers.get());
  curl_easy_setopt(curl, CURLOPT_HEADEROPT, static_cast<long>(CURLHEADER_SEPARATE));
  if (request.first_byte > 0) {
    curl_easy_setopt(curl, CURLOPT_RANGE, absl::StrCat(request.first_byte, "-").c_str());
  }
  curl_easy_setopt(curl, CURLOPT_HEADERFUNCTION, Exchange::OnHeader);
  curl_easy_setopt(curl, CURLOPT_HEADERDATA, exchange);
  curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, Exchange::OnBody);
  curl_easy_setopt(curl, CURLOPT_WRITEDATA, exchange);
  curl_easy_setopt(curl, CURLOPT_NOPROGRESS, 0L);
  curl_easy_setopt(curl, CURLOPT_XFERINFOFUNCTION, Exchange::OnProgress);
  curl_easy_setopt(curl, CURLOPT_XFERINFODATA, exchange);

  exchange->curl = curl;
  const CURLcode code = curl_easy_perform(curl);
  exchange->ReadStatus();
  exchange->response.url = url;
  if (!exchange->sink_status.ok()) return exchange->sink_status;
  if (code != CURLE_OK) return FailureOf(code, details, origin.Text());
  // An empty body has a head too.
  if (IsSuccess(exchange->response.status)) return exchange->ShowHead();
  return absl::OkStatus();
}

absl::StatusOr<WebResponse> WebClient::Get(const WebRequest& request, const HeadSink& head,
                                           const BodySink& body) {
  KVASIR_ASSIGN_OR_RETURN(const WebOrigin first, OriginOf(request.url));
  // Once gone to another host it stays away, even when that one leads back.
  bool send_token = !request.bearer_token.empty();
  std::string url = request.url;
  for (int hop = 0;; ++hop) {
    Exchange exchange;
    exchange.request = &request;
    exchange.head = &head;
    exchange.body = &body;
    exchange.cancelled = options_.cancelled;
    KVASIR_RETURN_IF_ERROR(Perform(request, url, send_token, &exchange));
    if (!IsRedirect(exchange.response.status)) return std::move(exchange.response);
    const char* target = nullptr;  // the Location, made absolute
    curl_easy_getinfo(static_cast<CURL*>(curl_.get()), CURLINFO_REDIRECT_URL, &target);
    if (target == nullptr) {
      return absl::FailedPreconditionError(absl::StrCat(
          first.Text(), " answers ", exchange.response.status, " without saying where to go"));
    }
    if (hop == kMaxRedirects) {
      return absl::FailedPreconditionError(
          absl::StrCat(request.url, " leads through more than ", kMaxRedirects, " redirects"));
    }
    const std::string next = target;
    KVASIR_ASSIGN_OR_RETURN(const WebOrigin to, OriginOf(next));
    KVASIR_ASSIGN_OR_RETURN(const WebOrigin from, OriginOf(url));
    if (from.scheme == "https" && to.scheme != "https") {
      return absl::FailedPreconditionError(absl::StrCat(
          from.Text(), " leads to ", to.Text(), ", which is not encrypted; it is not followed"));
    }
    if (to != first) send_token = false;
    url = next;
  }
}

}  // namespace kvasir
