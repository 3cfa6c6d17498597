#include "cpu/compiled.h"

// The number of threads of parallel loops.  Results do not depend on it.
int threads = 1;
