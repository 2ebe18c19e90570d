// How compute threads wait, and where they may run: settings that libgomp reads before main.
//
// Waiting. After each parallel region, libgomp's workers spin for GOMP_SPINCOUNT rounds, so that
// the next region starts within 2 microseconds instead of 30 to 100. Its default of 300,000 rounds
// is 8 ms here (28 ns a round), taken from gRPC's threads after every step, and from everybody
// where CPUs are short. 3,000 rounds still span the gaps inside a step: tokens/s of a 7 M and of a
// 1 B model on idle CPUs are the same from 500 to 30,000. On two CPUs with four busy loops of
// higher priority beside, a token took 5 to 12 ms with 500 to 10,000 rounds, and 60 ms with 30,000.
// Without any region nothing spins: an idle daemon uses no CPU either way.
//
// Place. Compute threads are as many as the cores that the process may use (thread_placement.h),
// and the kernel places them within its mask; taskset, a container's cpuset or systemd's
// CPUAffinity= narrow it for all threads alike. OpenMP's own binding (OMP_PROC_BIND, OMP_PLACES,
// GOMP_CPU_AFFINITY) is undone, for it binds the first thread to one CPU before main, and every
// thread that the process starts would inherit that single CPU: gRPC's threads and each engine with
// its team.
#pragma once

namespace kvasir {

// Settings before main mean starting over: sets GOMP_SPINCOUNT, unless the environment already has
// GOMP_SPINCOUNT or OMP_WAIT_POLICY, gives the process back the CPUs of OpenMP's places, and
// executes this program again in the same process. Returns when there is nothing to do (also after
// the restart), and when executing fails, for the defaults are only slower.
//
// Call it first in main, before any thread and any output. argv ends with a null pointer, as main's
// does.
void ConfigureOpenMp(char** argv);

}  // namespace kvasir
