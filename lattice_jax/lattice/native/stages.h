/* A pass as a list of stages, each the same work for some cells in one step.

   Contract: threads go through the list in its order and take cells of a stage until none is left; nobody begins a stage before
   the first `after` of the list have ended. What a stage needs stands early enough in the list that it has mostly ended by
   then, so threads rarely wait, and none does so for ever, because the earliest unended stage waits for nothing. */
#pragma once

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>

#include "cell.h"

enum { CELLS_AT_ONCE = 15 };

typedef struct Job Job;
typedef void Work(const Job* job, long t, long cell, Scratch* scratch);

typedef struct {
  Work* work;
  long t;
  const int32_t* cells;
  long count, after;
  Work* before; /* done for all the cells that a thread takes at once, before `work`; or NULL */
  atomic_long taken, done;
} Stage;

typedef struct {
  Stage* all;
  long count;
} Stages;

typedef struct {
  const Job* job;
  const Stages* stages;
  Scratch scratch;
} Worker;

static void add_stage(Stages* stages, Stage stage) { stages->all[stages->count++] = stage; }

static void wait_until_ended(const Stages* stages, long from, long to) {
  for (; from < to; from++)
    while (atomic_load(&stages->all[from].done) < stages->all[from].count) sched_yield();
}

/* The cells of a stage from `start` to `end`, and after them the turn is at `then`. */
static void work_on(const Stage* stage, Work* work, const Job* job, long start, long end, long then, Scratch* scratch) {
  for (long i = start; i < end; i++) {
    scratch->next = stage->cells[i + 1 < end ? i + 1 : then];
    work(job, stage->t, stage->cells[i], scratch);
  }
}

/* A thread takes its next cells before it begins with those that it has, so that the last of these can ask for the first of
   those. */
static void work_through(Stage* stage, const Job* job, long start, Scratch* scratch) {
  while (start < stage->count) {
    const long then = atomic_fetch_add(&stage->taken, CELLS_AT_ONCE);
    const long end = start + CELLS_AT_ONCE < stage->count ? start + CELLS_AT_ONCE : stage->count;
    if (stage->before) work_on(stage, stage->before, job, start, end, end - 1, scratch);
    work_on(stage, stage->work, job, start, end, then < stage->count ? then : end - 1, scratch);
    atomic_fetch_add(&stage->done, end - start);
    start = then;
  }
}

static void* work_through_all(void* argument) {
  Worker* worker = argument;
  const Stages* stages = worker->stages;
  long ended = 0;
  for (long number = 0; number < stages->count; number++) {
    Stage* stage = stages->all + number;
    const long start = atomic_fetch_add(&stage->taken, CELLS_AT_ONCE);
    if (start >= stage->count) continue;
    wait_until_ended(stages, ended, stage->after);
    ended = stage->after > ended ? stage->after : ended;
    work_through(stage, worker->job, start, &worker->scratch);
  }
  return NULL;
}

/* Cells in the order of their numbers, in blocks so large that neighbours are in the same or in adjoining ones. Work goes
   through the cube block by block, so that what neighbours left to each other is still in the processor's cache. */
typedef struct {
  long size, count;
} Blocks;

static Blocks blocks_of(const Lattice* lattice) {
  const Neighbourhood* both[] = {&lattice->perception, &lattice->gate};
  long farthest = 1;
  for (int n = 0; n < 2; n++)
    for (long cell = 0; cell < lattice->cells; cell++)
      for (long k = 0; k < both[n]->count; k++) {
        const long other = both[n]->table[cell * both[n]->count + k], distance = labs(other - cell);
        if (other >= 0 && distance > farthest) farthest = distance;
      }
  return (Blocks){farthest, (lattice->cells + farthest - 1) / farthest};
}

/* A beginning, an end, and in every step two stages a block and one more. */
static long most_stages(long steps, Blocks blocks) { return 2 + steps * (2 * blocks.count + 1); }

/* Steps take turns in the direction in which they go through the blocks: each begins where the last one ended. */
static inline long block_at(Blocks blocks, long t, long place) { return t % 2 ? blocks.count - 1 - place : place; }

/* The place of the first of `count` cells, in order, that is not before the block. */
static long first_in_block(const int32_t* cells, long count, Blocks blocks, long block) {
  long low = 0, high = count;
  while (low < high) {
    const long middle = (low + high) / 2;
    if (cells[middle] < block * blocks.size)
      low = middle + 1;
    else
      high = middle;
  }
  return low;
}

typedef struct {
  Work* work;
  const int32_t* cells; /* in order */
  long count;
  Work* before;
} HalfStep;

static void add_block(Stages* stages, HalfStep half, long t, Blocks blocks, long block, long after) {
  const long first = first_in_block(half.cells, half.count, blocks, block);
  const long end = first_in_block(half.cells, half.count, blocks, block + 1);
  add_stage(stages, (Stage){half.work, t, half.cells + first, end - first, after, half.before});
}

/* One step in two halves. The second half of a block needs the first one of this and the adjoining blocks, and all of the steps
   before. It stands two blocks later, so that a third block is at work while these end. */
static void add_step(Stages* stages, long t, Blocks blocks, HalfStep first, HalfStep second) {
  const long before = stages->count;
  long last_begun = before;
  for (long place = 0; place < blocks.count + 2; place++) {
    const long needed = last_begun;
    if (place < blocks.count) {
      add_block(stages, first, t, blocks, block_at(blocks, t, place), before);
      last_begun = stages->count;
    }
    if (place >= 2) add_block(stages, second, t, blocks, block_at(blocks, t, place - 2), needed);
  }
}
