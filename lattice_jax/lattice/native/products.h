/* Small matrix products, as one register tile that all three kinds share.

   Contract: `multiply` computes C = start + A B for row-major B and C and any strides of A, so the same tile serves
   values x kernel, gradient x transposed kernel, and the weight gradient, values^T x gradient. Any sizes; widths that are
   multiples of 32 run at the machine's rate, remainders in narrower tiles. */
#pragma once

#include <stdint.h>
#include <string.h>

enum { LANES = 16, TILE_ROWS = 8 };

typedef float Vector __attribute__((vector_size(4 * LANES)));

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

static inline __attribute__((always_inline)) void transpose_tile(const float* from, long from_row, float* to, long to_row) {
  Vector rows[LANES];
#pragma GCC unroll 16
  for (int r = 0; r < LANES; r++) rows[r] = load(from + r * from_row);
#pragma GCC unroll 4
  for (int stage = 0; stage < 4; stage++)
#pragma GCC unroll 16
    for (int r = 0; r < LANES; r++)
      if (!(r & (8 >> stage))) exchange(&rows[r], &rows[r + (8 >> stage)], 8 >> stage);
#pragma GCC unroll 16
  for (int r = 0; r < LANES; r++) store(to + r * to_row, rows[r]);
}

/* to[columns][rows] = from[rows][columns], transposed. */
static inline void transpose(long rows, long columns, const float* from, float* to) {
  for (long r = 0; r < rows; r += LANES)
    for (long c = 0; c < columns; c += LANES) {
      if (r + LANES <= rows && c + LANES <= columns) {
        transpose_tile(from + r * columns + c, columns, to + c * rows + r, rows);
        continue;
      }
      for (long i = r; i < rows && i < r + LANES; i++)
        for (long j = c; j < columns && j < c + LANES; j++) to[j * rows + i] = from[i * columns + j];
    }
}

typedef struct {
  const float* values;
  long row, column; /* distances between neighbouring rows and columns */
} Operand;

/* The small matrices of neighbouring cells lie far apart, so the hardware does not see the next one coming: while one cell's is
   at work, every round of a product asks for one more cache line of the next cell's. */
typedef struct {
  const float *next, *end;
} Upcoming;

/* One tile of C, held in registers over the whole depth. `rows` and `vectors` are literals at every call. */
static inline __attribute__((always_inline)) void tile(const int rows, const int vectors, long depth, Operand a, const float* b,
                                                       long b_row, float* c, long c_row, const float* bias, int accumulate,
                                                       Upcoming* upcoming) {
  enum { LINE = 64 / sizeof(float) };
  const int lines = rows == 1 ? 2 : 1;
  const float* coming = upcoming->next;
  const long step = coming < upcoming->end ? lines * LINE : 0;
  Vector sum[TILE_ROWS][2];
#pragma GCC unroll 8
  for (int r = 0; r < rows; r++)
#pragma GCC unroll 2
    for (int v = 0; v < vectors; v++)
      sum[r][v] = accumulate ? load(c + r * c_row + v * LANES) : bias ? load(bias + v * LANES) : (Vector){0};
  for (long k = 0; k < depth; k++) {
    for (int line = 0; line < lines; line++) __builtin_prefetch(coming + line * LINE, 0, 2);
    coming += step;
    Vector right[2];
#pragma GCC unroll 2
    for (int v = 0; v < vectors; v++) right[v] = load(b + k * b_row + v * LANES);
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++) {
      const float left = a.values[r * a.row + k * a.column];
#pragma GCC unroll 2
      for (int v = 0; v < vectors; v++) sum[r][v] += left * right[v];
    }
  }
  upcoming->next = coming;
#pragma GCC unroll 8
  for (int r = 0; r < rows; r++)
#pragma GCC unroll 2
    for (int v = 0; v < vectors; v++) store(c + r * c_row + v * LANES, sum[r][v]);
}

/* All rows of a strip of C that is `vectors` vectors wide. */
static inline __attribute__((always_inline)) void strip(const int vectors, long rows, long depth, Operand a, const float* b,
                                                        long b_row, float* c, long c_row, const float* bias, int accumulate,
                                                        Upcoming* upcoming) {
  long r = 0;
  for (; r + 8 <= rows; r += 8, a.values += 8 * a.row, c += 8 * c_row)
    tile(8, vectors, depth, a, b, b_row, c, c_row, bias, accumulate, upcoming);
  for (; r + 4 <= rows; r += 4, a.values += 4 * a.row, c += 4 * c_row)
    tile(4, vectors, depth, a, b, b_row, c, c_row, bias, accumulate, upcoming);
  for (; r < rows; r++, a.values += a.row, c += c_row)
    tile(1, vectors, depth, a, b, b_row, c, c_row, bias, accumulate, upcoming);
}

/* C[rows][columns] = (accumulate ? C : bias or 0) + A[rows][depth] B[depth][columns]. */
static void multiply(long rows, long columns, long depth, Operand a, const float* b, long b_row, float* c, long c_row,
                     const float* bias, int accumulate, Upcoming upcoming) {
  long j = 0;
  for (; j + 2 * LANES <= columns; j += 2 * LANES)
    strip(2, rows, depth, a, b + j, b_row, c + j, c_row, bias ? bias + j : NULL, accumulate, &upcoming);
  for (; j + LANES <= columns; j += LANES)
    strip(1, rows, depth, a, b + j, b_row, c + j, c_row, bias ? bias + j : NULL, accumulate, &upcoming);
  if (j == columns) return;
  for (long r = 0; r < rows; r++)
    for (long column = j; column < columns; column++) {
      float sum = accumulate ? c[r * c_row + column] : bias ? bias[column] : 0;
      for (long k = 0; k < depth; k++) sum += a.values[r * a.row + k * a.column] * b[k * b_row + column];
      c[r * c_row + column] = sum;
    }
}
