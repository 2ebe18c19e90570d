// Whose turn it is: waiting sequences of many tenants, ordered by virtual token counters (VTC,
// after Sheng et al., "Fairness in Serving Large Language Models", OSDI 2024, algorithm 2).
//
// Each tenant has a counter of the service it got: price of a token × tokens ÷ weight. Of the
// tenants that wait, the one with the smallest counter is next; inside a tenant higher priority
// goes first, then earlier arrival. A tenant that had nothing waiting is lifted to the smallest
// counter of those that wait (or, when nobody waits, to the largest that was reached meanwhile), so
// idling earns no credit. While two tenants both wait, what they get ÷ weight differs by at most 2
// max(input price × longest prompt, output price × tokens of the running sequences) ÷ weight: the
// bound of the paper's theorem 4.4. Nobody starves, for each token served moves its tenant back.
//
// Charged are prompt tokens as they are computed (so those found cached cost nothing, nor those
// computed again after a preemption, which is not the tenant's doing) and tokens as they are
// generated.
//
// Policy only; the state lives in TenantState. Owned and called by Scheduler; not thread safe.
// Borrows sequences until Remove.
#pragma once

#include <cstdint>
#include <vector>

#include "runtime/engine/tenants/tenant_policy.h"
#include "runtime/engine/tenants/tenant_table.h"

namespace kvasir {

class FairQueue {
 public:
  explicit FairQueue(TokenPrices prices) : prices_(prices) {}

  void Push(Sequence* sequence);
  void Remove(Sequence* sequence);

  // Negative counts take a charge back.
  void ChargeInput(TenantState* tenant, int64_t tokens) { Charge(tenant, tokens * prices_.input); }
  void ChargeOutput(TenantState* tenant, int64_t tokens) {
    Charge(tenant, tokens * prices_.output);
  }

  // Tenants with waiting sequences, in no order.
  const std::vector<TenantState*>& tenants() const { return tenants_; }
  int size() const { return size_; }

  // True when sequence a is served before b of the same tenant: higher priority, then earlier
  // arrival.
  static bool Before(const Sequence* a, const Sequence* b);

 private:
  void Charge(TenantState* tenant, double price);

  const TokenPrices prices_;
  std::vector<TenantState*> tenants_;
  double level_ = 0;  // the largest counter reached while nobody waited
  int size_ = 0;
};

}  // namespace kvasir
