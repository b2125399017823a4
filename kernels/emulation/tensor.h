// The emulation's side of mma_f16.cuh and mma_s8.cuh: what a warp's tensor instructions compute, lane by lane, and
// copies that come late.
#pragma once

namespace cuemu {

inline float half_of(uint32_t word, int which) {
    return __half2float(__ushort_as_half(static_cast<unsigned short>(word >> 16 * which & 0xffff)));
}

// The words of all lanes, copied before the exchange is used again.
struct WarpWords {
    uint32_t low[WARP], high[WARP];

    WarpWords(uint32_t x, uint32_t y) {
        const uint64_t* words = post(static_cast<uint64_t>(y) << 32 | x);
        for (int i = 0; i < WARP; i++) low[i] = static_cast<uint32_t>(words[i]), high[i] = words[i] >> 32;
    }
};

inline void mma_f16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    const WarpWords first(a[0], a[1]), second(a[2], a[3]), columns(b0, b1);
    const int g = lane() / 4, t = lane() % 4;
    for (int k = 0; k < 16; k++) {
        const int from = 4 * g + k % 8 / 2;
        const WarpWords& rows = k < 8 ? first : second;
        for (int n = 0; n < 2; n++) {
            const int column = 4 * (2 * t + n) + k % 8 / 2;
            const float b = half_of(k < 8 ? columns.low[column] : columns.high[column], k % 2);
            c[n] += half_of(rows.low[from], k % 2) * b;
            c[2 + n] += half_of(rows.high[from], k % 2) * b;
        }
    }
}

inline void mma_s8(int (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, int start) {
    const WarpWords first(a[0], a[1]), second(a[2], a[3]), columns(b0, b1);
    const int g = lane() / 4, t = lane() % 4;
    for (int& sum : c) sum = start;
    for (int k = 0; k < 4; k++) {
        const int from = 4 * g + k;
        for (int n = 0; n < 2; n++) {
            const int column = 4 * (2 * t + n) + k;
            const int low = static_cast<int>(columns.low[column]), high = static_cast<int>(columns.high[column]);
            c[n] = __dp4a(static_cast<int>(second.low[from]), high,
                          __dp4a(static_cast<int>(first.low[from]), low, c[n]));
            c[2 + n] = __dp4a(static_cast<int>(second.high[from]), high,
                              __dp4a(static_cast<int>(first.high[from]), low, c[2 + n]));
        }
    }
}

inline void load_matrices(uint32_t (&to)[4], const uint16_t* row, bool transposed) {
    const uint64_t* words = post(reinterpret_cast<uint64_t>(row));
    const int g = lane() / 4, t = lane() % 4;
    for (int i = 0; i < 4; i++) {
        auto half = [&](int r, int c) { return reinterpret_cast<const uint16_t*>(words[8 * i + r])[c]; };
        const uint32_t low = transposed ? half(2 * t, g) : half(g, 2 * t);
        const uint32_t high = transposed ? half(2 * t + 1, g) : half(g, 2 * t + 1);
        to[i] = low | high << 16;
    }
}

// Asynchronous copies come as late as they may: when a thread waits for their group.
inline void copy_async(void* to, const void* from, size_t bytes) {
    Fiber& self = machine.fibers[machine.current];
    self.copies.push_back({to, from, bytes, self.groups});
}

inline void commit_copies() { machine.fibers[machine.current].groups++; }

inline void wait_copies(int pending) {
    Fiber& self = machine.fibers[machine.current];
    size_t done = 0;
    while (done < self.copies.size() && self.copies[done].group < self.groups - pending) {
        memcpy(self.copies[done].to, self.copies[done].from, self.copies[done].bytes);
        done++;
    }
    self.copies.erase(self.copies.begin(), self.copies.begin() + static_cast<std::ptrdiff_t>(done));
}

}  // namespace cuemu
