#include "runtime/engine/tenants/fair_queue.h"

#include <algorithm>

#include "base/check.h"
#include "runtime/engine/sequence.h"

namespace kvasir {

bool FairQueue::Before(const Sequence* a, const Sequence* b) {
  const RequestState& first = *a->request;
  const RequestState& second = *b->request;
  if (first.request.priority != second.request.priority)
    return first.request.priority > second.request.priority;
  if (first.order != second.order) return first.order < second.order;
  return a->index < b->index;
}

void FairQueue::Push(Sequence* sequence) {
  TenantState* const tenant = sequence->request->tenant;
  if (tenant->waiting.empty()) {
    double least = level_;
    if (!tenants_.empty()) {
      least = (*std::min_element(tenants_.begin(), tenants_.end(),
                                 [](const TenantState* a, const TenantState* b) {
                                   return a->virtual_tokens < b->virtual_tokens;
                                 }))
                  ->virtual_tokens;
    }
    tenant->virtual_tokens = std::max(tenant->virtual_tokens, least);
    tenants_.push_back(tenant);
  }
  std::vector<Sequence*>& line = tenant->waiting;
  line.insert(std::upper_bound(line.begin(), line.end(), sequence, Before), sequence);
  ++size_;
}

void FairQueue::Remove(Sequence* sequence) {
  TenantState* const tenant = sequence->request->tenant;
  KVASIR_CHECK(std::erase(tenant->waiting, sequence) == 1);
  --size_;
  if (!tenant->waiting.empty()) return;
  std::erase(tenants_, tenant);
  if (tenants_.empty()) level_ = std::max(level_, tenant->virtual_tokens);
}

void FairQueue::Charge(TenantState* tenant, double price) {
  tenant->virtual_tokens += price / tenant->policy.weight;
  if (tenants_.empty()) level_ = std::max(level_, tenant->virtual_tokens);
}

}  // namespace kvasir
