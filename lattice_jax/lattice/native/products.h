/* Small matrix products, as one register tile that all three kinds share.

   Contract: `multiply` computes C = start + A B for row-major B and C and any strides of A, so the same tile serves
   values x kernel, kernel x transposed gradient, and the weight gradient, values^T x gradient. Any sizes; widths that are
   multiples of two vectors run at the machine's rate, remainders in narrower tiles. `multiply_pairs` is the second kind for few
   samples, with a tile and a layout of its own. */
#pragma once

#include <stdint.h>
#include <string.h>

/* Vectors as wide as the registers, and as many rows of two in a tile as they have room for beside its operands: wider vectors
   than a processor has are taken apart by way of memory, at a tenth of the speed. */
#ifdef __AVX512F__
enum { LANES = 16, STAGES = 4, TILE_ROWS = 8 };
#else
enum { LANES = 8, STAGES = 3, TILE_ROWS = 6 };
#endif

typedef float Vector __attribute__((vector_size(4 * LANES)));
typedef float Half __attribute__((vector_size(2 * LANES)));

static inline __attribute__((always_inline)) Vector load(const float* from) {
  Vector value;
  memcpy(&value, from, sizeof value);
  return value;
}

static inline __attribute__((always_inline)) void store(float* to, Vector value) { memcpy(to, &value, sizeof value); }

typedef int32_t Lanes __attribute__((vector_size(4 * LANES)));

/* Swaps the off-diagonal blocks of `size` lanes between two rows: one stage of a transposition in registers. */
static inline __attribute__((always_inline)) void exchange(Vector* upper, Vector* lower, const int size) {
  Lanes to_upper, to_lower;
#pragma GCC unroll 16
  for (int lane = 0; lane < LANES; lane++) {
    to_upper[lane] = lane & size ? LANES + lane - size : lane;
    to_lower[lane] = lane & size ? LANES + lane : lane + size;
  }
  const Vector before = *upper;
  *upper = __builtin_shuffle(before, *lower, to_upper);
  *lower = __builtin_shuffle(before, *lower, to_lower);
}

/* Reads the first `rows_in` rows, the others count as zero, and writes the first `rows_out`. */
static inline __attribute__((always_inline)) void transpose_tile(const float* from, long from_row, long rows_in, float* to,
                                                                 long to_row, long rows_out) {
  Vector rows[LANES];
#pragma GCC unroll 16
  for (int r = 0; r < LANES; r++) rows[r] = r < rows_in ? load(from + r * from_row) : (Vector){0};
#pragma GCC unroll 4
  for (int stage = 1; stage <= STAGES; stage++)
#pragma GCC unroll 16
    for (int r = 0; r < LANES; r++)
      if (!(r & (LANES >> stage))) exchange(&rows[r], &rows[r + (LANES >> stage)], LANES >> stage);
#pragma GCC unroll 16
  for (int r = 0; r < LANES; r++)
    if (r < rows_out) store(to + r * to_row, rows[r]);
}

/* Samples as columns are padded with zeros to whole vectors. */
static inline long padded(long samples) { return (samples + LANES - 1) / LANES * LANES; }

/* to[columns][padded(rows)] = from[rows][columns], transposed, and zeros behind it. */
static inline void transpose_samples(long rows, long columns, const float* from, float* to) {
  const long row = padded(rows);
  for (long r = 0; r < row; r += LANES) {
    long c = 0;
    for (; c + LANES <= columns; c += LANES)
      transpose_tile(from + r * columns + c, columns, rows - r, to + c * row + r, row, LANES);
    for (; c < columns; c++)
      for (long i = r; i < r + LANES; i++) to[c * row + i] = i < rows ? from[i * columns + c] : 0;
  }
}

/* The way back: to[rows][columns] = from[columns][padded(rows)], transposed. */
static inline void transpose_to_samples(long rows, long columns, const float* from, float* to) {
  const long row = padded(rows);
  for (long r = 0; r < row; r += LANES) {
    long c = 0;
    for (; c + LANES <= columns; c += LANES)
      transpose_tile(from + c * row + r, row, LANES, to + r * columns + c, columns, rows - r);
    for (; c < columns; c++)
      for (long i = r; i < r + LANES && i < rows; i++) to[i * columns + c] = from[c * row + i];
  }
}

typedef struct {
  const float* values;
  long row, column; /* distances between neighbouring rows and columns */
} Operand;

/* The small matrices of neighbouring cells lie far apart, so the hardware does not see the next one coming: while one cell's is
   at work, every round of a product asks for `lines` more cache lines of the next cell's. */
typedef struct {
  const float *next, *end;
  int lines;
} Upcoming;

enum { LINE = 64 / sizeof(float) };

static inline int lines_a_round(Upcoming upcoming, long rounds) {
  return (upcoming.end - upcoming.next) / LINE > rounds ? 2 : 1;
}

/* Defines `NAME`, which computes one tile of C, held in registers over the whole depth: `rows` rows of `vectors` vectors of
   TYPE. Both numbers are literals at every call. */
#define DEFINE_TILE(NAME, TYPE)                                                                                               \
  static inline __attribute__((always_inline)) void NAME(const int rows, const int vectors, long depth, Operand a,            \
                                                         const float* b, long b_row, float* c, long c_row, const float* bias, \
                                                         int accumulate, Upcoming* upcoming) {                                \
    enum { WIDTH = sizeof(TYPE) / sizeof(float) };                                                                            \
    const int lines = upcoming->lines;                                                                                        \
    const float* coming = upcoming->next;                                                                                     \
    const long step = coming < upcoming->end ? lines * LINE : 0;                                                              \
    TYPE sum[TILE_ROWS][2], right[2];                                                                                         \
    _Pragma("GCC unroll 8") for (int r = 0; r < rows; r++) _Pragma("GCC unroll 2") for (int v = 0; v < vectors; v++) {        \
      sum[r][v] = (TYPE){0};                                                                                                  \
      if (accumulate || bias) memcpy(&sum[r][v], (accumulate ? c + r * c_row : bias) + v * WIDTH, sizeof(TYPE));              \
    }                                                                                                                         \
    for (long k = 0; k < depth; k++) {                                                                                        \
      __builtin_prefetch(coming, 0, 2);                                                                                       \
      if (lines > 1) __builtin_prefetch(coming + LINE, 0, 2);                                                                 \
      coming += step;                                                                                                         \
      _Pragma("GCC unroll 2") for (int v = 0; v < vectors; v++) memcpy(&right[v], b + k * b_row + v * WIDTH, sizeof(TYPE));   \
      _Pragma("GCC unroll 8") for (int r = 0; r < rows; r++) {                                                                \
        const float left = a.values[r * a.row + k * a.column];                                                                \
        _Pragma("GCC unroll 2") for (int v = 0; v < vectors; v++) sum[r][v] += left * right[v];                               \
      }                                                                                                                       \
    }                                                                                                                         \
    upcoming->next = coming;                                                                                                  \
    _Pragma("GCC unroll 8") for (int r = 0; r < rows; r++) _Pragma("GCC unroll 2") for (int v = 0; v < vectors; v++)          \
        memcpy(c + r * c_row + v * WIDTH, &sum[r][v], sizeof(TYPE));                                                          \
  }

DEFINE_TILE(tile, Vector)
DEFINE_TILE(half_tile, Half)

typedef void Tile(const int rows, const int vectors, long depth, Operand a, const float* b, long b_row, float* c, long c_row,
                  const float* bias, int accumulate, Upcoming* upcoming);

/* All rows of a strip of C that is `vectors` vectors wide, by tiles of the kind `compute`. */
static inline __attribute__((always_inline)) void strip(Tile* compute, const int vectors, long rows, long depth, Operand a,
                                                        const float* b, long b_row, float* c, long c_row, const float* bias,
                                                        int accumulate, Upcoming* upcoming) {
  long r = 0;
  for (; r + TILE_ROWS <= rows; r += TILE_ROWS, a.values += TILE_ROWS * a.row, c += TILE_ROWS * c_row)
    compute(TILE_ROWS, vectors, depth, a, b, b_row, c, c_row, bias, accumulate, upcoming);
  for (; r + 4 <= rows; r += 4, a.values += 4 * a.row, c += 4 * c_row)
    compute(4, vectors, depth, a, b, b_row, c, c_row, bias, accumulate, upcoming);
  for (; r + 2 <= rows; r += 2, a.values += 2 * a.row, c += 2 * c_row)
    compute(2, vectors, depth, a, b, b_row, c, c_row, bias, accumulate, upcoming);
  for (; r < rows; r++, a.values += a.row, c += c_row)
    compute(1, vectors, depth, a, b, b_row, c, c_row, bias, accumulate, upcoming);
}

/* C[rows][columns] = (accumulate ? C : bias or 0) + A[rows][depth] B[depth][columns]. */
static void multiply(long rows, long columns, long depth, Operand a, const float* b, long b_row, float* c, long c_row,
                     const float* bias, int accumulate, Upcoming upcoming) {
  const long tiles = (columns + 2 * LANES - 1) / (2 * LANES) * ((rows + TILE_ROWS - 1) / TILE_ROWS);
  upcoming.lines = lines_a_round(upcoming, tiles * depth);
  long j = 0;
  for (; j + 2 * LANES <= columns; j += 2 * LANES)
    strip(tile, 2, rows, depth, a, b + j, b_row, c + j, c_row, bias ? bias + j : NULL, accumulate, &upcoming);
  for (; j + LANES <= columns; j += LANES)
    strip(tile, 1, rows, depth, a, b + j, b_row, c + j, c_row, bias ? bias + j : NULL, accumulate, &upcoming);
  for (; j + LANES / 2 <= columns; j += LANES / 2)
    strip(half_tile, 1, rows, depth, a, b + j, b_row, c + j, c_row, bias ? bias + j : NULL, accumulate, &upcoming);
  if (j == columns) return;
  for (long r = 0; r < rows; r++)
    for (long column = j; column < columns; column++) {
      float sum = accumulate ? c[r * c_row + column] : bias ? bias[column] : 0;
      for (long k = 0; k < depth; k++) sum += a.values[r * a.row + k * a.column] * b[k * b_row + column];
      c[r * c_row + column] = sum;
    }
}

/* ---- few samples: as columns, they fill half a vector, so two columns lie side by side ---- */

enum { FEW = LANES / 2 };

/* Between FEW rows of a vector each and pairs of columns, [LANES / 2][FEW samples][2]; the way back is the same. */
static inline __attribute__((always_inline)) void exchange_pairs(Vector block[FEW]) {
#pragma GCC unroll 4
  for (int stage = 1; stage < STAGES; stage++)
#pragma GCC unroll 8
    for (int r = 0; r < FEW; r++)
      if (!(r & (FEW >> stage))) exchange(&block[r], &block[r + (FEW >> stage)], LANES >> stage);
}

/* to[columns / 2][FEW][2] from from[rows][columns]: up to FEW rows, the missing ones as zeros. */
static inline void transpose_to_pairs(long rows, long columns, const float* from, float* to) {
  for (long c = 0; c < columns; c += LANES, to += FEW * LANES) {
    Vector block[FEW];
#pragma GCC unroll 8
    for (int r = 0; r < FEW; r++) block[r] = r < rows ? load(from + r * columns + c) : (Vector){0};
    exchange_pairs(block);
#pragma GCC unroll 8
    for (int r = 0; r < FEW; r++) store(to + r * LANES, block[r]);
  }
}

/* The way back. */
static inline void transpose_from_pairs(long rows, long columns, const float* from, float* to) {
  for (long c = 0; c < columns; c += LANES, from += FEW * LANES) {
    Vector block[FEW];
#pragma GCC unroll 8
    for (int r = 0; r < FEW; r++) block[r] = load(from + r * LANES);
    exchange_pairs(block);
#pragma GCC unroll 8
    for (int r = 0; r < FEW; r++)
      if (r < rows) store(to + r * columns + c, block[r]);
  }
}

typedef int64_t Pairs __attribute__((vector_size(4 * LANES)));

/* All lanes from two floats, in turns. */
static inline __attribute__((always_inline)) Vector repeat_pair(const float* from) {
  int64_t pair;
  memcpy(&pair, from, sizeof pair);
  return (Vector)((Pairs){0} + pair);
}

/* `rows` rows of `multiply_pairs`: two steps of the depth are added up side by side. */
static inline __attribute__((always_inline)) void paired_tile(const int rows, long depth, const float* a, const float* b,
                                                              float* c, Upcoming* upcoming) {
  const int lines = upcoming->lines;
  const float* coming = upcoming->next;
  const long step = coming < upcoming->end ? lines * LINE : 0;
  Vector sum[TILE_ROWS];
#pragma GCC unroll 8
  for (int r = 0; r < rows; r++) sum[r] = (Vector){0};
  for (long k = 0; k < depth; k += 2) {
    __builtin_prefetch(coming, 0, 2);
    if (lines > 1) __builtin_prefetch(coming + LINE, 0, 2);
    coming += step;
    const Vector right = load(b + k * FEW);
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++) sum[r] += repeat_pair(a + r * depth + k) * right;
  }
  upcoming->next = coming;
  Lanes even, odd; /* of one row's lanes and the next one's, in turns */
#pragma GCC unroll 16
  for (int lane = 0; lane < LANES; lane++) {
    even[lane] = lane / 2 * 2 + lane % 2 * LANES;
    odd[lane] = even[lane] + 1;
  }
#pragma GCC unroll 4
  for (int r = 0; r < rows; r += 2)
    store(c + r * FEW, __builtin_shuffle(sum[r], sum[r + 1], even) + __builtin_shuffle(sum[r], sum[r + 1], odd));
}

/* C[rows / 2][FEW][2] = A[rows][depth] B[depth / 2][FEW][2]. */
static void multiply_pairs(long rows, long depth, const float* a, const float* b, float* c, Upcoming upcoming) {
  const long tiles = (rows + TILE_ROWS - 1) / TILE_ROWS;
  upcoming.lines = lines_a_round(upcoming, tiles * depth / 2);
  for (; rows >= TILE_ROWS; rows -= TILE_ROWS, a += TILE_ROWS * depth, c += TILE_ROWS * FEW)
    paired_tile(TILE_ROWS, depth, a, b, c, &upcoming);
  for (; rows; rows -= 2, a += 2 * depth, c += 2 * FEW) paired_tile(2, depth, a, b, c, &upcoming);
}
