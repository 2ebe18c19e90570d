// In every test of builds with the address sanitizer.

// clang's OpenMP keeps what it made for a team of threads when the thread that led it ends; what
// the program itself loses is still told.
extern "C" const char* __lsan_default_suppressions() { return "leak:libomp.so\n"; }
