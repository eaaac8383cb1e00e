/* Dense products on a processor's matrix unit (Intel AMX), which multiplies bfloat16 and adds up float32.

   Contract: C[rows][columns] = A[rows][depth] B[depth][columns], row-major float32, any rows, depth and columns multiples
   of 32. Every value goes in as the sum of two bfloat16, high and low, and a product as high x high + high x low + low x high
   (Henry, Tang and Heinecke 2019, arXiv:1904.06376). What that leaves out, low x low and what two bfloat16 can't hold, is 2^-16
   of a product or less. What isn't finite, in float32 or as bfloat16, makes its sums non-finite. */
#define _GNU_SOURCE
#include "foreign.h"

#if defined(__linux__) && defined(__AMX_BF16__) && defined(__AVX512BF16__)
#include <immintrin.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "threads.h"

/* A tile of the unit is 16 rows of 16 float32 or of 16 pairs of bfloat16. A block, 32 by 32 values of A or B, is four tiles:
   the high parts of its halves, then the low ones. */
enum { ROWS = 16, BLOCK = 2 * ROWS, ROW_BYTES = 64, TILE = ROWS * BLOCK, TILES = 4 * TILE };

typedef uint16_t BFloat16;

typedef struct {
  const float *left, *right;
  float* out;
  BFloat16 *split_left, *split_right; /* of the left side as many rows a thread as one takes at a time, of the right side all */
  long rows, depth, columns, rows_at_once;
  atomic_long split, multiplied, threads; /* blocks of depth and parts of rows that were taken, threads that have begun */
} Product;

/* 16 pairs (first, second) of high parts, and of what these leave, which float32 holds exactly. */
static inline __attribute__((always_inline)) void split_pairs(const float* first, const float* second, BFloat16* tiles) {
  const __m512i in_turns = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21, 5,
                                            20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  const __m512 one = _mm512_loadu_ps(first), other = _mm512_loadu_ps(second);
  const __m512i high = _mm512_permutexvar_epi16(in_turns, (__m512i)_mm512_cvtne2ps_pbh(other, one));
  const __m512 rest = one - (__m512)_mm512_slli_epi32(high, 16);
  const __m512 other_rest = other - (__m512)_mm512_and_si512(high, _mm512_set1_epi32(~0xffff));
  const __m512i low = _mm512_permutexvar_epi16(in_turns, (__m512i)_mm512_cvtne2ps_pbh(other_rest, rest));
  _mm512_storeu_si512(tiles, high);
  _mm512_storeu_si512(tiles + 2 * TILE, low);
}

/* 32 rows of B, read from side to side. In a column, those 16 apart are a pair. Blocks of one column lie one after the other.
 */
static void split_right_rows(const Product* product, long k) {
  const long columns = product->columns;
  for (long c = 0; c < columns; c += BLOCK) {
    BFloat16* tiles = product->split_right + (c * product->depth + k * BLOCK) * 2;
    for (long i = 0; i < ROWS; i++)
      for (long half = 0; half < 2; half++) {
        const float* from = product->right + (k + i) * columns + c + half * ROWS;
        split_pairs(from, from + ROWS * columns, tiles + half * TILE + i * BLOCK);
      }
  }
}

/* `rows` rows of A; in a row, values 16 apart are a pair. Rows that a last block lacks stay what they are, and lead nowhere. */
static void split_left_rows(const Product* product, long row, long rows, BFloat16* tiles) {
  const long depth = product->depth;
  for (long r = 0; r < rows; r++) {
    const float* from = product->left + (row + r) * depth;
    BFloat16* to = tiles + r / BLOCK * depth * BLOCK * 2 + r % BLOCK * BLOCK;
    for (long k = 0; k < depth; k += BLOCK, to += TILES) split_pairs(from + k, from + k + ROWS, to);
  }
}

/* Tiles 0 to 3 add up, 4 and 5 hold one part of A, 6 and 7 one of B. */
static inline __attribute__((always_inline)) void multiply_tiles(void) {
  _tile_dpbf16ps(0, 4, 6);
  _tile_dpbf16ps(1, 4, 7);
  _tile_dpbf16ps(2, 5, 6);
  _tile_dpbf16ps(3, 5, 7);
}

/* One block of C from a row of blocks of A and a column of blocks of B. */
static void multiply_blocks(long blocks, const BFloat16* left, const BFloat16* right, float* out, long out_row) {
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  for (long block = 0; block < blocks; block++, left += TILES, right += TILES) {
    _tile_loadd(4, left + 2 * TILE, ROW_BYTES);
    _tile_loadd(5, left + 3 * TILE, ROW_BYTES);
    _tile_loadd(6, right, ROW_BYTES);
    _tile_loadd(7, right + TILE, ROW_BYTES);
    multiply_tiles(); /* low x high */
    _tile_loadd(4, left, ROW_BYTES);
    _tile_loadd(5, left + TILE, ROW_BYTES);
    multiply_tiles(); /* high x high */
    _tile_loadd(6, right + 2 * TILE, ROW_BYTES);
    _tile_loadd(7, right + 3 * TILE, ROW_BYTES);
    multiply_tiles(); /* high x low */
  }
  const long bytes = sizeof(float) * out_row;
  _tile_stored(0, out, bytes);
  _tile_stored(1, out + ROWS, bytes);
  _tile_stored(2, out + ROWS * out_row, bytes);
  _tile_stored(3, out + ROWS * out_row + ROWS, bytes);
}

/* `rows` rows of C, all columns. A last block that is not whole goes by way of a whole one. */
static void multiply_rows(const Product* product, long row, long rows, const BFloat16* left) {
  const long depth = product->depth, columns = product->columns;
  float whole[BLOCK * BLOCK];
  for (long c = 0; c < columns; c += BLOCK)
    for (long r = 0; r < rows; r += BLOCK) {
      const long here = rows - r < BLOCK ? rows - r : BLOCK;
      float* out = product->out + (row + r) * columns + c;
      const BFloat16 *across = left + r * depth * 2, *down = product->split_right + c * depth * 2;
      if (here == BLOCK) {
        multiply_blocks(depth / BLOCK, across, down, out, columns);
        continue;
      }
      multiply_blocks(depth / BLOCK, across, down, whole, BLOCK);
      for (long i = 0; i < here; i++) memcpy(out + i * columns, whole + i * BLOCK, sizeof(float) * BLOCK);
    }
}

static void configure_tiles(void) {
  struct {
    uint8_t palette, start, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
  } configuration = {.palette = 1};
  for (int tile = 0; tile < 8; tile++) {
    configuration.row_bytes[tile] = ROW_BYTES;
    configuration.rows[tile] = ROWS;
  }
  _tile_loadconfig(&configuration);
}

static void* split_right(void* argument) {
  Product* product = argument;
  for (long k; (k = BLOCK * atomic_fetch_add(&product->split, 1)) < product->depth;) split_right_rows(product, k);
  return NULL;
}

static void* multiply(void* argument) {
  Product* product = argument;
  const long at_once = product->rows_at_once;
  BFloat16* left = product->split_left + atomic_fetch_add(&product->threads, 1) * at_once * product->depth * 2;
  configure_tiles();
  for (long r; (r = at_once * atomic_fetch_add(&product->multiplied, 1)) < product->rows;) {
    const long rows = product->rows - r < at_once ? product->rows - r : at_once;
    split_left_rows(product, r, rows, left);
    multiply_rows(product, r, rows, left);
  }
  _tile_release();
  return NULL;
}

/* Whether there is a unit that this process may use: Linux gives a process its tiles when it asks for them. */
int has_matrix_unit(void) {
  enum { ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18 };
  return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0;
}

/* Arguments: left, right, threads. Results: the product, and room for both sides split, as floats: the right one as it is, and
   [threads][rows at once, whole blocks of them][depth] of the left one. */
XLA_FFI_Error* split_product(XLA_FFI_CallFrame* frame) {
  if (answers_query(frame)) return NULL;
  if (!has_matrix_unit()) return report(frame, "there is no matrix unit that this process may use");
  const XLA_FFI_Buffer* right = frame->args.args[1];
  const long depth = right->dims[0], threads = *(const int32_t*)argument(frame, 2);
  Product product = {.left = argument(frame, 0),
                     .right = argument(frame, 1),
                     .out = result(frame, 0),
                     .split_right = result(frame, 1),
                     .split_left = result(frame, 2),
                     .rows = argument_size(frame, 0) / depth,
                     .depth = depth,
                     .columns = right->dims[1],
                     .rows_at_once = result_size(frame, 2) / (threads * depth)};
  pthread_t* handles = malloc(sizeof(pthread_t) * threads);
  if (!handles) return report(frame, "there is no memory for the table of threads");
  work_on_threads(split_right, &product, 0, handles, threads);
  work_on_threads(multiply, &product, 0, handles, threads);
  free(handles);
  return NULL;
}
#else
int has_matrix_unit(void) { return 0; }

XLA_FFI_Error* split_product(XLA_FFI_CallFrame* frame) {
  return answers_query(frame) ? NULL : report(frame, "this was compiled for a processor without a matrix unit");
}
#endif
