/* What every function that XLA calls needs (XLA's foreign-function interface, in C).

   Contract: buffers come in the order in which Python passes them; a handler first asks `answers_query`, and returns what
   `report` makes of a problem, or of none. */
#pragma once

#include <stdint.h>

#include "xla/ffi/api/c_api.h"

static inline void* argument(const XLA_FFI_CallFrame* frame, int index) {
  return ((XLA_FFI_Buffer*)frame->args.args[index])->data;
}

static inline void* result(const XLA_FFI_CallFrame* frame, int index) {
  return ((XLA_FFI_Buffer*)frame->rets.rets[index])->data;
}

static inline long size_of(const XLA_FFI_Buffer* buffer) {
  long size = 1;
  for (int64_t axis = 0; axis < buffer->rank; axis++) size *= buffer->dims[axis];
  return size;
}

static inline long argument_size(const XLA_FFI_CallFrame* frame, int index) { return size_of(frame->args.args[index]); }

static inline long result_size(const XLA_FFI_CallFrame* frame, int index) { return size_of(frame->rets.rets[index]); }

/* XLA asks once, before the first call, which version of its interface this is built for. */
static inline int answers_query(const XLA_FFI_CallFrame* frame) {
  const XLA_FFI_Extension_Base* extension = frame->extension_start;
  if (!extension || extension->type != XLA_FFI_Extension_Metadata) return 0;
  XLA_FFI_Metadata* metadata = ((const XLA_FFI_Metadata_Extension*)extension)->metadata;
  metadata->api_version.major_version = XLA_FFI_API_MAJOR;
  metadata->api_version.minor_version = XLA_FFI_API_MINOR;
  return 1;
}

static inline XLA_FFI_Error* report(const XLA_FFI_CallFrame* frame, const char* problem) {
  if (!problem) return NULL;
  XLA_FFI_Error_Create_Args error = {
      .struct_size = XLA_FFI_Error_Create_Args_STRUCT_SIZE, .message = problem, .errc = XLA_FFI_Error_Code_RESOURCE_EXHAUSTED};
  return frame->api->XLA_FFI_Error_Create(&error);
}
