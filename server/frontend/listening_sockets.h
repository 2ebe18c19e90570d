// The sockets of one listen address: TCP on every address of a host's name, or one unix socket.
//
// Owns the descriptors and the file of the unix socket: Close, or the end, closes and removes them.
// Movable; not thread safe.
#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "server/config/server_config.h"

namespace kvasir {

class ListeningSockets {
 public:
  // Binds and listens; connections wait in the kernel. Port 0 takes a free one, the same for all
  // addresses; [::] is every address of the machine, IPv4 too. A unix socket that a dead process
  // left behind is replaced; who may connect is the umask's matter. Unavailable when the address
  // cannot be used; `remedy` ends the message.
  static absl::StatusOr<ListeningSockets> Open(const HostPort& address, absl::string_view remedy);

  ListeningSockets() = default;
  ~ListeningSockets() { Close(); }
  ListeningSockets(ListeningSockets&& other) noexcept { *this = std::move(other); }
  ListeningSockets& operator=(ListeningSockets&& other) noexcept;

  // Non-blocking, close-on-exec.
  const std::vector<int>& descriptors() const { return descriptors_; }
  // With the port that was taken.
  const HostPort& address() const { return address_; }

  void Close();

 private:
  absl::Status OpenTcp(absl::string_view remedy);
  absl::Status OpenUnix(absl::string_view remedy);

  HostPort address_;
  std::vector<int> descriptors_;
  // The file that this made, if any: another's is left alone.
  dev_t device_ = 0;
  ino_t inode_ = 0;
};

}  // namespace kvasir
