/* How XLA calls the compiled lattice: buffers in a fixed order in, results out (XLA's foreign-function interface, in C).

   Contract: the Python side (engine.py) passes what the comments at `read_lattice` name, in that order and
   with sizes that it asked `native_sizes` for. */

#include "foreign.h"
#include "lattice.h"

/* The whole numbers that describe a pass, in the order in which Python passes them. */
enum Setting {
  CELLS,
  BATCH,
  CHANNELS,
  HIDDEN,
  STEPS,
  THREADS,
  HELD,
  RESIDUAL,
  BOUNDED,
  KEPT,
  DEFERRED,
  PERCEIVED,
  GATED,
  FIRES_BATCH,
  STARTED,
  SHARERS,
  SETTINGS
};

static Lattice describe(const int32_t* settings) {
  const long channels = settings[CHANNELS], hidden = settings[HIDDEN];
  const long perceived = settings[PERCEIVED], gated = settings[GATED];
  return (Lattice){
      .cells = settings[CELLS],
      .batch = settings[BATCH],
      .channels = channels,
      .hidden = hidden,
      .steps = settings[STEPS],
      .threads = settings[THREADS],
      .held = settings[HELD],
      .residual = settings[RESIDUAL],
      .bounded = settings[BOUNDED],
      .kept = settings[KEPT],
      .deferred = settings[DEFERRED],
      .fires_batch = settings[FIRES_BATCH],
      .sharers = settings[SHARERS],
      .perception = {.count = perceived},
      .gate = {.count = gated},
      .sizes = {[PERCEPTION] = perceived * channels,
                [CONTENT_SCALE] = 2 * channels,
                [CONTENT_KERNEL] = 2 * channels * hidden,
                [CONTENT_BIAS] = hidden,
                [MESSAGE_SCALE] = 2 * channels,
                [MESSAGE_KERNEL] = 2 * channels * hidden,
                [MESSAGE_BIAS] = hidden,
                [GATE_SCALE] = hidden,
                [GATE] = gated * hidden,
                [GATE_BIAS] = hidden,
                [CANDIDATE_KERNEL] = hidden * channels,
                [CANDIDATE_BIAS] = channels,
                [MEMORY_KERNEL] = 2 * channels * channels,
                [MEMORY_BIAS] = channels,
                [STEP_SIZE] = channels},
  };
}

/* Floats of the forward workspace without and with versions, of the backward one, and of one version. */
void native_sizes(const int32_t* settings, int64_t* sizes) {
  const Lattice lattice = describe(settings);
  sizes[0] = forward_workspace_size(&lattice, 0);
  sizes[1] = forward_workspace_size(&lattice, 1);
  sizes[2] = backward_workspace_size(&lattice);
  sizes[3] = version_size(&lattice);
}

enum Argument {
  SETTINGS_ARGUMENT,
  EPSILON,
  PERCEPTION_TABLE,
  PERCEPTION_FIRST,
  PERCEPTION_RECEIVERS,
  GATE_TABLE,
  GATE_FIRST,
  GATE_RECEIVERS,
  FACE_INDEX,
  FIRES,
  INJECTED,
  START_VISIBLE,
  START_MEMORY,
  WEIGHTS,
  BACKWARD_ARGUMENTS = WEIGHTS + PARAMETERS
};

static Lattice read_lattice(const XLA_FFI_CallFrame* frame) {
  Lattice lattice = describe(argument(frame, SETTINGS_ARGUMENT));
  lattice.epsilon = *(const float*)argument(frame, EPSILON);
  Neighbourhood* both[] = {&lattice.perception, &lattice.gate};
  for (int n = 0; n < 2; n++) {
    both[n]->table = argument(frame, PERCEPTION_TABLE + 3 * n);
    both[n]->first = argument(frame, PERCEPTION_FIRST + 3 * n);
    both[n]->receivers = argument(frame, PERCEPTION_RECEIVERS + 3 * n);
  }
  lattice.face_index = argument(frame, FACE_INDEX);
  lattice.fires = argument(frame, FIRES);
  lattice.injected = argument(frame, INJECTED);
  if (((const int32_t*)argument(frame, SETTINGS_ARGUMENT))[STARTED]) {
    lattice.start_visible = argument(frame, START_VISIBLE);
    lattice.start_memory = argument(frame, START_MEMORY);
  }
  for (int name = 0; name < PARAMETERS; name++) lattice.weights[name] = argument(frame, WEIGHTS + name);
  return lattice;
}

/* Results: visible, memory, squares, workspace. */
XLA_FFI_Error* lattice_answer(XLA_FFI_CallFrame* frame) {
  if (answers_query(frame)) return NULL;
  const Lattice lattice = read_lattice(frame);
  const Forward forward = {
      .visible = result(frame, 0), .memory = result(frame, 1), .squares = result(frame, 2), .workspace = result(frame, 3)};
  return report(frame, propagate_forward(&lattice, &forward));
}

/* Results: visible, memory, squares, workspace, versions. */
XLA_FFI_Error* lattice_forward(XLA_FFI_CallFrame* frame) {
  if (answers_query(frame)) return NULL;
  const Lattice lattice = read_lattice(frame);
  const Forward forward = {.visible = result(frame, 0),
                           .memory = result(frame, 1),
                           .squares = result(frame, 2),
                           .workspace = result(frame, 3),
                           .versions = result(frame, 4),
                           .versions_size = result_size(frame, 4)};
  return report(frame, propagate_forward(&lattice, &forward));
}

/* More arguments: versions, gradients of visible, memory and squares. Results: gradients of the weights, of what was injected
   and of the firings, the versions in their place, workspace. */
XLA_FFI_Error* lattice_backward(XLA_FFI_CallFrame* frame) {
  if (answers_query(frame)) return NULL;
  const Lattice lattice = read_lattice(frame);
  Backward backward = {.versions = result(frame, PARAMETERS + 2),
                       .visible_gradient = argument(frame, BACKWARD_ARGUMENTS + 1),
                       .memory_gradient = argument(frame, BACKWARD_ARGUMENTS + 2),
                       .squares_gradient = argument(frame, BACKWARD_ARGUMENTS + 3),
                       .injected_gradient = result(frame, PARAMETERS),
                       .fires_gradient = result(frame, PARAMETERS + 1),
                       .workspace = result(frame, PARAMETERS + 3)};
  for (int name = 0; name < PARAMETERS; name++) backward.gradients[name] = result(frame, name);
  return report(frame, propagate_backward(&lattice, &backward));
}
