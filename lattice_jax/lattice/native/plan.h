/* Who computes what at which step, known from the firing masks before any arithmetic.

   Contract: a cell has one version for the start and one more after each firing. `version[t]` is the one that it holds when
   step t begins. A message is made once a version, at the first step at which a firing cell hears it. */
#pragma once

#include <stdint.h>
#include <stdlib.h>

#include "lattice.h"

typedef struct {
  int32_t* version;       /* [steps + 1][cells] */
  uint8_t* fires;         /* [steps][cells] */
  int32_t* firing;        /* [steps][cells]: the cells that fire, in order */
  int32_t* sending;       /* [steps][cells]: those that make a message */
  int32_t* firing_count;  /* [steps] */
  int32_t* sending_count; /* [steps] */
  uint8_t* sent;          /* [versions] */
  long versions;
} Plan;

static void free_plan(Plan* plan) {
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

/* `recycled`: a cell's versions take turns in two places, because no backward pass will read the old ones. */
static int make_plan(Plan* plan, const Lattice* lattice, int recycled) {
  const long cells = lattice->cells, steps = lattice->steps;
  *plan = (Plan){
      .version = malloc(sizeof(int32_t) * (steps + 1) * cells),
      .fires = malloc(steps * cells),
      .firing = malloc(sizeof(int32_t) * steps * cells),
      .sending = malloc(sizeof(int32_t) * steps * cells),
      .firing_count = calloc(steps, sizeof(int32_t)),
      .sending_count = calloc(steps, sizeof(int32_t)),
      .sent = calloc((steps + 2) * cells, 1),
      .versions = recycled ? 2 * cells : cells,
  };
  if (!plan->version || !plan->fires || !plan->firing || !plan->sending || !plan->firing_count || !plan->sending_count ||
      !plan->sent) {
    free_plan(plan);
    return 0;
  }
  for (long cell = 0; cell < cells; cell++) plan->version[cell] = (int32_t)(recycled ? 2 * cell : cell);
  for (long t = 0; t < steps; t++) {
    const int32_t* before = plan->version + t * cells;
    int32_t* after = plan->version + (t + 1) * cells;
    uint8_t* fires = plan->fires + t * cells;
    for (long cell = 0; cell < cells; cell++) {
      const float* samples = lattice->fires + (t * cells + cell) * lattice->fires_batch;
      fires[cell] = 0;
      for (long b = 0; b < lattice->fires_batch; b++) fires[cell] |= samples[b] != 0;
      if (fires[cell]) plan->firing[t * cells + plan->firing_count[t]++] = (int32_t)cell;
    }
    for (long cell = 0; cell < cells; cell++)
      if (!plan->sent[before[cell]] && is_heard(lattice, fires, cell)) {
        plan->sent[before[cell]] = 1;
        plan->sending[t * cells + plan->sending_count[t]++] = (int32_t)cell;
      }
    for (long cell = 0; cell < cells; cell++) {
      after[cell] = !fires[cell] ? before[cell] : recycled ? before[cell] ^ 1 : (int32_t)plan->versions++;
      if (fires[cell]) plan->sent[after[cell]] = 0;
    }
  }
  return 1;
}
