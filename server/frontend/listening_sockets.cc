#include "server/frontend/listening_sockets.h"

#include <netdb.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <memory>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace kvasir {
namespace {

// With port 0 and several addresses: how often another port is tried when one of them has it taken.
constexpr int kPortAttempts = 16;

absl::Status Unusable(const HostPort& address, absl::string_view reason, absl::string_view remedy) {
  return absl::UnavailableError(
      absl::StrCat("cannot listen on ", address.ToString(), ": ", reason, "; ", remedy));
}

// A socket that listens; -1 with errno set when the address cannot be bound.
int Listen(int family, const sockaddr* address, socklen_t size) {
  const int descriptor = socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (descriptor < 0) return -1;
  const int on = 1, off = 0;
  // A restart must not wait for the last run's connections to be forgotten. The port cannot be
  // shared with a second daemon that way: listening on it still fails.
  if (family != AF_UNIX) setsockopt(descriptor, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  if (family == AF_INET6) {
    // A name that has an IPv4 address as well gets a socket of its own for that.
    const auto* v6 = reinterpret_cast<const sockaddr_in6*>(address);
    const bool every = IN6_IS_ADDR_UNSPECIFIED(&v6->sin6_addr);
    setsockopt(descriptor, IPPROTO_IPV6, IPV6_V6ONLY, every ? &off : &on, sizeof on);
  }
  if (bind(descriptor, address, size) == 0 && listen(descriptor, SOMAXCONN) == 0) return descriptor;
  const int error = errno;
  close(descriptor);
  errno = error;
  return -1;
}

int ListenOnPort(const addrinfo& entry, int port) {
  sockaddr_storage address = {};
  std::memcpy(&address, entry.ai_addr, entry.ai_addrlen);
  if (entry.ai_family == AF_INET6) {
    reinterpret_cast<sockaddr_in6*>(&address)->sin6_port = htons(static_cast<uint16_t>(port));
  } else {
    reinterpret_cast<sockaddr_in*>(&address)->sin_port = htons(static_cast<uint16_t>(port));
  }
  return Listen(entry.ai_family, reinterpret_cast<const sockaddr*>(&address), entry.ai_addrlen);
}

int PortOf(int descriptor) {
  sockaddr_storage bound = {};
  socklen_t size = sizeof bound;
  getsockname(descriptor, reinterpret_cast<sockaddr*>(&bound), &size);
  return ntohs(bound.ss_family == AF_INET6 ? reinterpret_cast<sockaddr_in6*>(&bound)->sin6_port
                                           : reinterpret_cast<sockaddr_in*>(&bound)->sin_port);
}

// Whether a process answers on a unix socket.
bool Answers(const sockaddr_un& address) {
  const int probe = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (probe < 0) return true;  // not known: better a failed start than two daemons
  const bool refused =
      connect(probe, reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0 &&
      errno == ECONNREFUSED;
  close(probe);
  return !refused;
}

}  // namespace

absl::StatusOr<ListeningSockets> ListeningSockets::Open(const HostPort& address,
                                                        absl::string_view remedy) {
  ListeningSockets sockets;
  sockets.address_ = address;
  KVASIR_RETURN_IF_ERROR(address.unix_path.empty() ? sockets.OpenTcp(remedy)
                                                   : sockets.OpenUnix(remedy));
  return sockets;
}

absl::Status ListeningSockets::OpenTcp(absl::string_view remedy) {
  addrinfo hints = {};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE;
  addrinfo* found = nullptr;
  if (const int code = getaddrinfo(address_.host.c_str(), nullptr, &hints, &found); code != 0) {
    return Unusable(address_, gai_strerror(code), remedy);
  }
  const std::unique_ptr<addrinfo, void (*)(addrinfo*)> owner(found, freeaddrinfo);

  int error = EADDRNOTAVAIL;
  for (int attempt = 0; attempt < kPortAttempts; ++attempt) {
    int port = address_.port;
    bool port_taken = false;
    for (const addrinfo* each = found; each != nullptr && !port_taken; each = each->ai_next) {
      const int descriptor = ListenOnPort(*each, port);
      if (descriptor < 0) {
        // "localhost" may have an IPv6 address on a machine without IPv6; a taken port is another
        // matter.
        if (descriptors_.empty() || errno == EADDRINUSE) error = errno;
        port_taken = errno == EADDRINUSE;
        continue;
      }
      port = PortOf(descriptor);
      descriptors_.push_back(descriptor);
    }
    if (!descriptors_.empty() && !port_taken) {
      address_.port = port;
      return absl::OkStatus();
    }
    Close();
    if (address_.port != 0 || !port_taken) break;
  }
  return Unusable(address_, std::strerror(error), remedy);
}

absl::Status ListeningSockets::OpenUnix(absl::string_view remedy) {
  const std::string& path = address_.unix_path;
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path) {
    return Unusable(address_,
                    absl::StrCat("the path has ", path.size(), " bytes and may have ",
                                 sizeof address.sun_path - 1),
                    remedy);
  }
  std::memcpy(address.sun_path, path.data(), path.size());
  struct stat status = {};
  if (lstat(path.c_str(), &status) == 0) {
    if (!S_ISSOCK(status.st_mode)) {
      return Unusable(address_, "something that is no socket has this name", remedy);
    }
    if (Answers(address)) return Unusable(address_, "another process listens there", remedy);
    unlink(path.c_str());
  }
  const int descriptor =
      Listen(AF_UNIX, reinterpret_cast<const sockaddr*>(&address), sizeof address);
  if (descriptor < 0) return Unusable(address_, std::strerror(errno), remedy);
  descriptors_.push_back(descriptor);
  if (lstat(path.c_str(), &status) == 0) {
    device_ = status.st_dev;
    inode_ = status.st_ino;
  }
  return absl::OkStatus();
}

ListeningSockets& ListeningSockets::operator=(ListeningSockets&& other) noexcept {
  Close();
  address_ = std::move(other.address_);
  descriptors_ = std::exchange(other.descriptors_, {});
  device_ = std::exchange(other.device_, 0);
  inode_ = std::exchange(other.inode_, 0);
  return *this;
}

void ListeningSockets::Close() {
  struct stat status = {};
  if (inode_ != 0 && lstat(address_.unix_path.c_str(), &status) == 0 && status.st_ino == inode_ &&
      status.st_dev == device_) {
    unlink(address_.unix_path.c_str());
  }
  inode_ = 0;
  for (const int descriptor : descriptors_) close(descriptor);
  descriptors_.clear();
}

}  // namespace kvasir
