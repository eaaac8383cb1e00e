/* The same work on several threads, the calling one among them. */
#pragma once

#include <pthread.h>
#include <stdlib.h>

/* `first` is the calling thread's argument, and those of the others lie `stride` bytes apart behind it, or are the same one.
   `handles` has room for all. */
static inline void work_on_threads(void* (*work)(void*), void* first, long stride, pthread_t* handles, long threads) {
  for (long i = 1; i < threads; i++)
    if (pthread_create(&handles[i], NULL, work, (char*)first + i * stride) != 0)
      abort(); /* those that run still use this memory */
  work(first);
  for (long i = 1; i < threads; i++) pthread_join(handles[i], NULL);
}
