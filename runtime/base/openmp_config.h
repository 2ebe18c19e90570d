// How long compute threads spin before they sleep.
//
// After each parallel region, libgomp's workers spin for GOMP_SPINCOUNT rounds, so that the next
// region starts within 2 microseconds instead of 30 to 100. Its default of 300,000 rounds is 8 ms
// here (28 ns a round), all of it taken from gRPC's threads after every step. 30,000 rounds, about
// 1 ms, still span the gaps inside a step and the sampling between two steps. Without any region
// nothing spins: an idle daemon uses no CPU either way.
#pragma once

namespace kvasir {

// libgomp reads its settings before main, so setting them means starting over: sets GOMP_SPINCOUNT
// and executes this program again in the same process, unless the environment already has
// GOMP_SPINCOUNT or OMP_WAIT_POLICY. Returns when there is nothing to do (also after the restart),
// and when executing fails, for the default is only slower.
//
// Call it first in main, before any thread and any output. argv ends with a null pointer, as main's
// does.
void ConfigureOpenMp(char** argv);

}  // namespace kvasir
