#include "cpu/compiled.h"

// A loop over images has as many parts as there are threads; what is computed does not depend on it.
int threads = 1;
