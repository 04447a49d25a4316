// Prints hashes of glibc's logarithms and powers for the tests of src/forest/elementary/mod.rs:
//
//     cc -O2 -ffp-contract=off -fno-builtin -o elementary elementary.c -lm && ./elementary
//
// on x86_64 Linux with glibc 2.28 or newer and a processor with fused multiply-add.

#include <inttypes.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

static uint64_t hash;

// FNV-1a over words.
static void add(double result) {
  uint64_t bits;
  memcpy(&bits, &result, sizeof bits);
  hash = (hash ^ bits) * 0x100000001b3;
}

static void start(void) { hash = 0xcbf29ce484222325; }

static void print(const char *name) { printf("%s %016" PRIx64 "\n", name, hash); }

static uint64_t state;

// SplitMix64 (Steele, Lea and Flood, 2014).
static uint64_t next(void) {
  uint64_t z = state += 0x9E3779B97F4A7C15;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EB;
  return z ^ (z >> 31);
}

static double uniform(uint64_t bits) { return (double)(bits >> 11) / 9007199254740992.0; }

static double averages[1024];

static double average(uint64_t bits, int shift, uint64_t count) {
  return averages[bits >> shift & (count - 1)];
}

static double whole(uint64_t bits, int shift, uint64_t count) {
  return (double)(bits >> shift & (count - 1));
}

int main(void) {
  start();
  for (int n = 1; n <= 1 << 20; n++) add(log(n));
  print("LN_WHOLE");

  start();
  state = 1;
  for (int i = 0; i < 1000000; i++) {
    uint64_t random = next(), bits = (random >> 2) + ((uint64_t)1 << 52);
    double any;
    memcpy(&any, &bits, sizeof any);
    add(log(any));
    add(log(0.9 + 0.2 * uniform(random)));
  }
  print("LN_ANY");

  for (int i = 0; i < 1024; i++) {
    double n = i + 3;
    averages[i] = 2.0 * (log(n - 1.0) + 0.5772156649015329) - 2.0 * (n - 1.0) / n;
  }
  start();
  state = 2;
  for (int i = 0; i < 100000000; i++) {
    uint64_t bits = next();
    double leaves = whole(bits, 27, 64) * average(bits, 10, 64) + whole(bits, 33, 16) * average(bits, 16, 1024);
    add(pow(2.0, -((whole(bits, 37, 1024) + leaves) / (100.0 * average(bits, 0, 1024)))));
  }
  print("POWER_QUOTIENTS");

  start();
  state = 3;
  for (int i = 0; i < 1000000; i++) {
    double u = uniform(next());
    add(pow(2.0, -(512.0 * u)));
    add(pow(2.0, -(u * u * u * u * u * u * u * u)));
  }
  print("POWER_ANY");
}
