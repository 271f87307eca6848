// A pool of threads that take small pieces of work from a queue.
//
// The caller takes pieces as well, and at the end waits for pieces that others have begun, not for threads: one that other
// programs keep from its core, or that has not woken up yet, holds up nobody. Who waits lets other programs run. OpenMP, whose
// threads all have to reach the end of each loop, loses most of its speed beside one more busy process.

#pragma once

#include <omp.h>
#include <sched.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

namespace home_dist {

// Sets the number of threads of the calling thread's products in MKL, 0 for the process's, and returns the one before; null with
// another BLAS.
using SetProductThreads = int (*)(int);

class Pool {
 public:
  // One for the process, shared by all libraries of it.
  static Pool& shared() {
    static std::atomic<Pool*> pool{nullptr};
    Pool* found = pool.load(std::memory_order_acquire);
    if (found && found->process == getpid()) return *found;
    static std::mutex making;
    std::lock_guard lock(making);
    found = pool.load();
    // A forked process has no threads but one: it gets a pool of its own, and its parent's is left as it is.
    if (!found || found->process != getpid()) pool.store(found = new Pool, std::memory_order_release);
    return *found;
  }

  SetProductThreads set_product_threads = nullptr;

  // Calls work(i) once for each i < count, by up to `threads` threads, the caller included.
  template <class Work>
  void run(int64_t count, int threads, const Work& work) {
    if (count < 2 || threads < 2 || inside() || !busy.try_lock()) {
      for (int64_t i = 0; i < count; ++i) work(i);
      return;
    }
    std::lock_guard lock(busy, std::adopt_lock);
    while (int(workers.size()) < threads - 1) workers.emplace_back([this, number = int(workers.size())] { serve(number); }).detach();
    call.store([](const void* of, int64_t i) { (*static_cast<const Work*>(of))(i); }, std::memory_order_relaxed);
    context.store(&work, std::memory_order_relaxed);
    total.store(count, std::memory_order_relaxed);
    helpers.store(threads - 1, std::memory_order_relaxed);
    done.store(0, std::memory_order_relaxed);
    const uint64_t turn = (tickets.load(std::memory_order_relaxed) >> TURN) + 1;
    tickets.store(turn << TURN | uint64_t(count), std::memory_order_seq_cst);
    epoch.fetch_add(1, std::memory_order_seq_cst);
    if (sleeping.load(std::memory_order_seq_cst)) epoch.notify_all();
    const int before = set_product_threads ? set_product_threads(1) : 0;
    inside() = true;
    take(turn);
    inside() = false;
    if (set_product_threads) set_product_threads(before);
    while (done.load(std::memory_order_acquire) < count) sched_yield();
  }

 private:
  static constexpr int TURN = 32;  // tickets: the number of the turn, and below it the pieces that are left
  static constexpr auto WAIT = std::chrono::microseconds(50);

  static bool& inside() {
    static thread_local bool is = false;
    return is;
  }

  // Takes pieces of a turn until none is left.
  void take(uint64_t turn) {
    const auto function = call.load(std::memory_order_relaxed);
    const void* of = context.load(std::memory_order_relaxed);
    const int64_t count = total.load(std::memory_order_relaxed);
    uint64_t ticket = tickets.load(std::memory_order_acquire);
    // What was read above is of this turn if its ticket can still be taken: a new turn begins when all pieces are done.
    while (ticket >> TURN == turn && (ticket & UINT32_MAX)) {
      if (!tickets.compare_exchange_weak(ticket, ticket - 1, std::memory_order_acq_rel)) continue;
      function(of, count - int64_t(ticket & UINT32_MAX));
      done.fetch_add(1, std::memory_order_release);
      ticket = tickets.load(std::memory_order_acquire);
    }
  }

  void serve(int number) {
    omp_set_num_threads(1);
    if (set_product_threads) set_product_threads(1);
    inside() = true;
    uint32_t seen = 0;
    for (;;) {
      const uint32_t now = epoch.load(std::memory_order_seq_cst);
      if (now != seen) {
        seen = now;
        const uint64_t ticket = tickets.load(std::memory_order_acquire);
        if (number < helpers.load(std::memory_order_relaxed)) take(ticket >> TURN);
        continue;
      }
      const auto until = std::chrono::steady_clock::now() + WAIT;
      while (epoch.load(std::memory_order_relaxed) == seen && std::chrono::steady_clock::now() < until) sched_yield();
      sleeping.fetch_add(1, std::memory_order_seq_cst);
      epoch.wait(seen, std::memory_order_seq_cst);
      sleeping.fetch_sub(1, std::memory_order_seq_cst);
    }
  }

  const pid_t process = getpid();
  std::mutex busy;
  std::vector<std::thread> workers;
  std::atomic<void (*)(const void*, int64_t)> call{nullptr};
  std::atomic<const void*> context{nullptr};
  std::atomic<int64_t> total{0}, done{0};
  std::atomic<int> helpers{0}, sleeping{0};
  std::atomic<uint64_t> tickets{0};
  std::atomic<uint32_t> epoch{0};
};

}  // namespace home_dist

// Every library has this function, for whoever loads it. Null leaves the work to OpenMP.
extern "C" [[gnu::used]] inline void set_product_threads(void* function) {
  home_dist::Pool::shared().set_product_threads = reinterpret_cast<home_dist::SetProductThreads>(function);
}

namespace {

// Calls work(i) for each i < count.
template <class Work>
inline void deal(int64_t count, const Work& work) {
  home_dist::Pool& pool = home_dist::Pool::shared();
  const int threads = omp_get_max_threads();
  if (pool.set_product_threads || threads < 2) return pool.run(count, threads, work);
  // Another BLAS uses one thread within OpenMP's loops alone.
#pragma omp parallel for schedule(dynamic, 1)
  for (int64_t i = 0; i < count; ++i) work(i);
}

// Calls work(first, last) for pieces of up to `grain` of `count` things.
template <class Work>
inline void deal_pieces(int64_t count, int64_t grain, const Work& work) {
  deal((count + grain - 1) / grain, [&](int64_t i) { work(i * grain, std::min(count, (i + 1) * grain)); });
}

// Memory of the calling thread for `count` numbers, kept from call to call. SLOT tells apart what one piece of work needs at once.
template <class A, int SLOT>
inline A* scratch(int64_t count) {
  static thread_local std::vector<A> kept;
  if (int64_t(kept.size()) < count) kept.resize(count);
  return kept.data();
}

}  // namespace
