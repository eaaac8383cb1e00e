/* The compiled lattice: what one pass through the cube reads and writes.

   Contract: `propagate_forward` and `propagate_backward` equal the scan over `step` in lattice_jax/lattice/step.py and its
   gradient, up to the order of additions. A cell that does not fire costs nothing: it keeps its state, and the message that it
   made from it. All arrays are float32 and row-major with the cell first, then `batch` rows. */
#pragma once

#include <stdint.h>

/* In the order in which Python passes them. */
enum Parameter {
  PERCEPTION,
  CONTENT_SCALE,
  CONTENT_KERNEL,
  CONTENT_BIAS,
  MESSAGE_SCALE,
  MESSAGE_KERNEL,
  MESSAGE_BIAS,
  GATE_SCALE,
  GATE,
  GATE_BIAS,
  CANDIDATE_KERNEL,
  CANDIDATE_BIAS,
  MEMORY_KERNEL,
  MEMORY_BIAS,
  STEP_SIZE,
  PARAMETERS
};

/* Who reads whom. A table row lists a cell's neighbours by offset, -1 for nothing there; the receivers are its inverse. */
typedef struct {
  long count;
  const int32_t* table;     /* [cells][count] */
  const int32_t* first;     /* [cells + 1]: where each cell's receivers begin */
  const int32_t* receivers; /* [.][2]: the receiving cell, and the offset's number there */
} Neighbourhood;

typedef struct {
  long cells, batch, channels, hidden, steps; /* `channels` visible ones, and as many of memory */
  int threads, held, residual, bounded;
  int kept;     /* whether what each firing computed is kept for the backward pass, or computed again there */
  int deferred; /* whether the matrices' gradients are added up once a cell, or at every firing; only what is kept can be */
  float epsilon;
  const float* weights[PARAMETERS];
  long sizes[PARAMETERS]; /* of one cell */
  long sharers;           /* so many cells in a row have the same weights: 1, those of a layer, or all */
  Neighbourhood perception, gate;
  const float* fires; /* [steps][cells][fires_batch] */
  long fires_batch;
  const float* injected;                     /* [face cells][batch][channels] */
  const float *start_visible, *start_memory; /* [cells][batch][channels], or NULL for the quiescent state */
  const int32_t* face_index;                 /* [cells], -1 off the face */
} Lattice;

typedef struct {
  float *visible, *memory; /* the last state, [cells][batch][channels] */
  float* squares;          /* [steps][2][batch]: of the change of the visible channels, and of these themselves */
  float* versions;         /* for the backward pass, or NULL where none will follow */
  long versions_size;      /* in floats */
  float* workspace;
} Forward;

typedef struct {
  float* versions; /* those of the forward pass, whose places the backward pass uses for what it leaves to the weights */
  const float *visible_gradient, *memory_gradient; /* of the last state */
  const float* squares_gradient;                   /* [steps][2][batch]; the second row has none */
  float* gradients[PARAMETERS];                    /* of every cell's use of its weights, shared or not */
  float* injected_gradient;
  float* fires_gradient; /* as `fires`: by how far a cell moves, and 0 where it rests */
  float* workspace;
} Backward;

/* Floats that the workspaces and one version must hold. */
long forward_workspace_size(const Lattice* lattice, int with_versions);
long backward_workspace_size(const Lattice* lattice);
long version_size(const Lattice* lattice);

/* NULL, or what went wrong. */
const char* propagate_forward(const Lattice* lattice, const Forward* forward);
const char* propagate_backward(const Lattice* lattice, const Backward* backward);
