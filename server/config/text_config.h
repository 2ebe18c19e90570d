// The threads that work on text, from the configuration.
#pragma once

#include "kvasir/config/v1/config.pb.h"
#include "server/config/config_checker.h"
#include "server/config/text_limits.h"

namespace kvasir {

// Sets what is absent and does not depend on the machine.
void FillTextDefaults(config::v1::TextConfig* text);

// `usable_cpus`: what the numbers of threads follow when they are absent.
TextLimits CheckText(const config::v1::TextConfig& text, int usable_cpus, ConfigChecker* check);

}  // namespace kvasir
