#include "server/frontend/refused_call.h"

#include <utility>

#include "server/frontend/request_errors.h"

namespace kvasir {

RefusedCall DescribeRefusal(std::string method, std::string request_id, std::string model,
                            std::string tenant, const absl::Status& status) {
  return {.method = std::move(method),
          .request_id = std::move(request_id),
          .model = std::move(model),
          .tenant = std::move(tenant),
          .refusal = RefusalOrByCode(status),
          .code = status.code(),
          .field = FirstBadField(status)};
}

}  // namespace kvasir
