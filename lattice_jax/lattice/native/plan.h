/* Who computes what at which step, known from the firing masks before any arithmetic.

   Contract: a cell has one version for the start and one more after each firing, and they are numbered one after the other,
   cell by cell, so that what a cell held at all its firings lies in one block. `version[t]` is the one that it holds when step
   t begins. A message is made once a version, at the first step at which a firing cell hears it. */
#pragma once

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "lattice.h"

typedef struct {
  int32_t* every;         /* [cells]: all cells, in order */
  int32_t* first;         /* [cells + 1]: each cell's first version */
  int32_t* version;       /* [steps + 1][cells] */
  uint8_t* fires;         /* [steps][cells] */
  int32_t* firing;        /* [steps][cells]: the cells that fire, in order */
  int32_t* sending;       /* [steps][cells]: those that make a message */
  int32_t* firing_count;  /* [steps] */
  int32_t* sending_count; /* [steps] */
  uint8_t* sent;          /* [versions] */
  long versions, cells;
} Plan;

static void free_plan(Plan* plan) {
  free(plan->every);
  free(plan->first);
  free(plan->version);
  free(plan->fires);
  free(plan->firing);
  free(plan->sending);
  free(plan->firing_count);
  free(plan->sending_count);
  free(plan->sent);
}

static inline int is_heard(const Lattice* lattice, const uint8_t* fires, long cell) {
  const Neighbourhood* gate = &lattice->gate;
  for (long k = gate->first[cell]; k < gate->first[cell + 1]; k++)
    if (fires[gate->receivers[2 * k]]) return 1;
  return 0;
}

static inline int fires_at_all(const Lattice* lattice, long t, long cell) {
  const float* samples = lattice->fires + (t * lattice->cells + cell) * lattice->fires_batch;
  int fires = 0;
  for (long b = 0; b < lattice->fires_batch; b++) fires |= samples[b] != 0;
  return fires;
}

/* `recycled`: a cell's versions take turns in two places, because no backward pass will read the old ones. */
static int make_plan(Plan* plan, const Lattice* lattice, int recycled) {
  const long cells = lattice->cells, steps = lattice->steps;
  *plan = (Plan){
      .every = malloc(sizeof(int32_t) * cells),
      .first = calloc(cells + 1, sizeof(int32_t)),
      .version = malloc(sizeof(int32_t) * (steps + 1) * cells),
      .fires = malloc(steps * cells),
      .firing = malloc(sizeof(int32_t) * steps * cells),
      .sending = malloc(sizeof(int32_t) * steps * cells),
      .firing_count = calloc(steps, sizeof(int32_t)),
      .sending_count = calloc(steps, sizeof(int32_t)),
      .sent = calloc((steps + 2) * cells, 1),
  };
  if (!plan->every || !plan->first || !plan->version || !plan->fires || !plan->firing || !plan->sending ||
      !plan->firing_count || !plan->sending_count || !plan->sent) {
    free_plan(plan);
    return 0;
  }
  for (long cell = 0; cell < cells; cell++) plan->every[cell] = (int32_t)cell;
  for (long t = 0; t < steps; t++)
    for (long cell = 0; cell < cells; cell++) {
      const int fires = plan->fires[t * cells + cell] = (uint8_t)fires_at_all(lattice, t, cell);
      if (fires) plan->firing[t * cells + plan->firing_count[t]++] = (int32_t)cell;
      plan->first[cell + 1] += fires;
    }
  for (long cell = 0; cell < cells; cell++)
    plan->first[cell + 1] = plan->first[cell] + (recycled ? 2 : 1 + plan->first[cell + 1]);
  plan->versions = plan->first[cells];
  plan->cells = cells;
  memcpy(plan->version, plan->first, sizeof(int32_t) * cells);
  for (long t = 0; t < steps; t++) {
    const int32_t* before = plan->version + t * cells;
    int32_t* after = plan->version + (t + 1) * cells;
    const uint8_t* fires = plan->fires + t * cells;
    for (long cell = 0; cell < cells; cell++)
      if (!plan->sent[before[cell]] && is_heard(lattice, fires, cell)) {
        plan->sent[before[cell]] = 1;
        plan->sending[t * cells + plan->sending_count[t]++] = (int32_t)cell;
      }
    for (long cell = 0; cell < cells; cell++) {
      after[cell] = !fires[cell] ? before[cell] : recycled ? before[cell] ^ 1 : before[cell] + 1;
      if (fires[cell]) plan->sent[after[cell]] = 0;
    }
  }
  return 1;
}

/* Whether a cell that fires in step t does so for the last time. */
static inline int is_last_firing(const Plan* plan, long t, long cell) {
  return plan->version[t * plan->cells + cell] + 2 == plan->first[cell + 1];
}

/* Whether a cell makes no more messages after the one of what it holds in step t; of none, where it never makes any. */
static inline int is_last_message(const Plan* plan, long t, long cell) {
  for (long version = plan->version[t * plan->cells + cell] + 1; version < plan->first[cell + 1]; version++)
    if (plan->sent[version]) return 0;
  return 1;
}

static inline int never_fires(const Plan* plan, long cell) { return plan->first[cell + 1] == plan->first[cell] + 1; }

static inline int never_sends(const Plan* plan, long cell) {
  return !plan->sent[plan->first[cell]] && is_last_message(plan, 0, cell);
}
