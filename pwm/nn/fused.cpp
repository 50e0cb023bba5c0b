// What stands between two matrix products, in one pass over memory: bias, dropout, LayerNorm and Mish or SimNorm.
//
// x = (product + bias) · kept · scale, then Mish(LayerNorm(x)), LayerNorm(Mish(x)) or SimNorm(LayerNorm(x)), row by row;
// the gradient computes x anew from the product. Rows are of float or bfloat16 numbers, SimNorm's results always of
// float, and so is everything in between.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <vector>

#include <omp.h>

namespace {

constexpr int64_t LINE = 64;  // bytes of a cache line

struct bfloat16 {
    uint16_t bits;
};

inline float load(float x) { return x; }

inline float load(bfloat16 x) {
    const uint32_t bits = uint32_t(x.bits) << 16;
    float y;
    std::memcpy(&y, &bits, sizeof y);
    return y;
}

inline void store(float& target, float x) { target = x; }

inline void store(bfloat16& target, float x) {  // to the nearest, ties to even
    uint32_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    target.bits = uint16_t((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

inline uint32_t bits_of(float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    return bits;
}

inline float of_bits(uint32_t bits) {
    float x;
    std::memcpy(&x, &bits, sizeof x);
    return x;
}

// e^x to within 2 units in the last place, of x brought into [-87, 20]; also of what is no number.
// It is 2^n e^r with |r| ≤ ln(2)/2, and Taylor's polynomial of e^r.
inline float exponential(float x) {
    // Numbers above 0 are ordered as their bits are, and those below 0 the other way round, after all above.
    const int32_t at_most_20 = std::min(int32_t(bits_of(x)), int32_t(0x41a00000));
    x = of_bits(std::min(uint32_t(at_most_20), uint32_t(0xc2ae0000)));
    const float shift = 12583039.0f;  // 1.5 · 2^23 + 127: adding it rounds, and leaves n + 127 in the last bits
    const float shifted = x * 1.44269504f + shift, n = shifted - shift;
    const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    float p = 1.0f / 720;
    p = p * r + 1.0f / 120;
    p = p * r + 1.0f / 24;
    p = p * r + 1.0f / 6;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    return p * of_bits(bits_of(shifted) << 23);
}

// 1 / x to within 2 units in the last place, of 2 ≤ x ≤ 2^60; also of what is no number. Newton's steps from a guess that
// negates the exponent are a third of a division.
inline float reciprocal(float x) {
    float y = of_bits(0x7ef311c7 - bits_of(x));
    for (int step = 0; step < 3; step++) y = y * (2.0f - x * y);
    return y;
}

// Mish x n / (n + 2) with w = e^x and n = w (w + 2); beyond 20 the factor of x is 1.
inline float mish(float x) {
    const float w = exponential(x), n = w * (w + 2.0f);
    return x * n * reciprocal(n + 2.0f);
}

// The same, and its derivative.
inline float mish(float x, float& slope) {
    const float w = exponential(x), n = w * (w + 2.0f), r = reciprocal(n + 2.0f);
    slope = (n + 4.0f * x * (n - w) * r) * r;
    return x * n * r;
}

struct Layer {
    int64_t members, rows, features;  // of networks, of each one's input, and of its output
    float scale, epsilon;
    int group, threads;  // SimNorm's number of features in a group
};

// One network's arrays: [rows, features], of a row or of a feature each. What is not wanted is none.
struct Member {
    const void* product;
    void* output;
    const uint8_t* kept;
    float *mean, *inverse_std;
    const float *bias, *weight, *shift;
    const void* gradient;
    void* of_product;  // may be where the product is
    float *of_bias, *of_weight, *of_shift;  // to which this layer's gradients are added
};

enum Order : int { mish_of_norm, norm_of_mish, simnorm_of_norm };

template <Order order, typename T>
using Output = std::conditional_t<order == simnorm_of_norm, float, T>;

// Softmax of each group of a row; `same` [features] holds what a group has in common.
template <int GROUP>
void simnorm(const Layer& layer, float* __restrict x, float* __restrict same) {
    const int64_t D = layer.features;
    const int group = GROUP ? GROUP : layer.group;
    for (int64_t j = 0; j < D; j += group) {
        float high = x[j];
#pragma omp simd reduction(max : high)
        for (int v = 0; v < group; v++) high = std::max(high, x[j + v]);
        for (int v = 0; v < group; v++) same[j + v] = high;
    }
#pragma omp simd
    for (int64_t i = 0; i < D; i++) {
        const float below = x[i] - same[i];
        x[i] = exponential(below) + (below - below);  // what is no number stays none
    }
    for (int64_t j = 0; j < D; j += group) {
        float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
        for (int v = 0; v < group; v++) sum += x[j + v];
        for (int v = 0; v < group; v++) same[j + v] = sum;
    }
#pragma omp simd
    for (int64_t i = 0; i < D; i++) x[i] /= same[i];
}

// From the gradient of its result p to that of what went in: p (g - Σ p g).
template <int GROUP>
void simnorm_gradient(const Layer& layer, const float* __restrict p, float* __restrict g, float* __restrict same) {
    const int64_t D = layer.features;
    const int group = GROUP ? GROUP : layer.group;
    for (int64_t j = 0; j < D; j += group) {
        float mean = 0.0f;
#pragma omp simd reduction(+ : mean)
        for (int v = 0; v < group; v++) mean += p[j + v] * g[j + v];
        for (int v = 0; v < group; v++) same[j + v] = mean;
    }
#pragma omp simd
    for (int64_t i = 0; i < D; i++) g[i] = p[i] * (g[i] - same[i]);
}

// Both x and its gradient.
inline void dropout(const Layer& layer, const Member& member, int64_t row, float* x) {
    const uint8_t* kept = member.kept + row * layer.features;
    for (int64_t i = 0; i < layer.features; i++) x[i] *= layer.scale * kept[i];
}

// Have the row after this one brought into the cache while this one is computed; beyond the last one it does no harm.
template <typename T>
inline void fetch_next(const T* row, int64_t features) {
    const char* next = reinterpret_cast<const char*>(row + features);
    for (int64_t byte = 0; byte < features * int64_t(sizeof(T)); byte += LINE) __builtin_prefetch(next + byte);
}

// x of one row.
template <typename T>
void input(const Layer& layer, const Member& member, int64_t row, float* __restrict x) {
    const int64_t D = layer.features;
    const T* __restrict product = static_cast<const T*>(member.product) + row * D;
    const float* bias = member.bias;
    fetch_next(product, D);
#pragma omp simd
    for (int64_t i = 0; i < D; i++) x[i] = load(product[i]) + bias[i];
    if (member.kept) dropout(layer, member, row, x);
}

template <Order order, typename T>
void forward_row(const Layer& layer, const Member& member, int64_t row, float* __restrict x, float* __restrict same) {
    const int64_t D = layer.features;
    const float *weight = member.weight, *shift = member.shift;
    input<T>(layer, member, row, x);
    float sum = 0.0f, squares = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < D; i++) {
        if (order == norm_of_mish) x[i] = mish(x[i]);
        sum += x[i];
    }
    const float center = sum / D;
#pragma omp simd reduction(+ : squares)
    for (int64_t i = 0; i < D; i++) squares += (x[i] - center) * (x[i] - center);
    const float rate = 1.0f / std::sqrt(squares / D + layer.epsilon);
    member.mean[row] = center;
    member.inverse_std[row] = rate;
    auto* __restrict out = static_cast<Output<order, T>*>(member.output) + row * D;
    if (order == simnorm_of_norm) {
#pragma omp simd
        for (int64_t i = 0; i < D; i++) x[i] = (x[i] - center) * rate * weight[i] + shift[i];
        (layer.group == 8 ? simnorm<8> : simnorm<0>)(layer, x, same);
#pragma omp simd
        for (int64_t i = 0; i < D; i++) store(out[i], x[i]);
    } else {
#pragma omp simd
        for (int64_t i = 0; i < D; i++) {
            const float y = (x[i] - center) * rate * weight[i] + shift[i];
            store(out[i], order == mish_of_norm ? mish(y) : y);
        }
    }
}

// x, slopes, g and same are rows to work in; to those of the parameters this row's share is added, if `learned`.
template <Order order, typename T, bool learned>
void backward_row(const Layer& layer, const Member& member, int64_t row, float* __restrict x, float* __restrict slopes,
                  float* __restrict g, float* __restrict same, float* __restrict of_bias, float* __restrict of_weight,
                  float* __restrict of_shift) {
    const int64_t D = layer.features;
    const float *weight = member.weight, *shift = member.shift;
    input<T>(layer, member, row, x);
    const auto* __restrict above = static_cast<const Output<order, T>*>(member.gradient) + row * D;
    const float center = member.mean[row], rate = member.inverse_std[row];
    float first = 0.0f, second = 0.0f, slope;
    fetch_next(above, D);
#pragma omp simd
    for (int64_t i = 0; i < D; i++) g[i] = load(above[i]);
    if (order == simnorm_of_norm) {
#pragma omp simd
        for (int64_t i = 0; i < D; i++) slopes[i] = (x[i] - center) * rate * weight[i] + shift[i];
        (layer.group == 8 ? simnorm<8> : simnorm<0>)(layer, slopes, same);
        (layer.group == 8 ? simnorm_gradient<8> : simnorm_gradient<0>)(layer, slopes, g, same);
    }
#pragma omp simd reduction(+ : first, second) private(slope)
    for (int64_t i = 0; i < D; i++) {
        if (order == norm_of_mish) x[i] = mish(x[i], slopes[i]);
        const float normal = (x[i] - center) * rate;
        float d = g[i];
        if (order == mish_of_norm) {
            mish(normal * weight[i] + shift[i], slope);
            d *= slope;
        }
        if (learned) {
            of_weight[i] += d * normal;
            of_shift[i] += d;
        }
        d *= weight[i];
        first += d;
        second += d * normal;
        x[i] = normal;
        g[i] = d;
    }
    first /= D;
    second /= D;
#pragma omp simd
    for (int64_t i = 0; i < D; i++) {
        g[i] = rate * (g[i] - first - x[i] * second);
        if (order == norm_of_mish) g[i] *= slopes[i];
    }
    if (member.kept) dropout(layer, member, row, g);
    T* __restrict out = static_cast<T*>(member.of_product) + row * D;
#pragma omp simd
    for (int64_t i = 0; i < D; i++) {
        if (learned) of_bias[i] += g[i];
        store(out[i], g[i]);
    }
}

// Zeros, `rows` times at least D, each row from the beginning of a cache line on, which vectors then do not cross.
class Rows {
  public:
    Rows(int64_t rows, int64_t D) : width((D + FLOATS - 1) / FLOATS * FLOATS), numbers(rows * width + FLOATS) {}

    float* operator[](int64_t row) {
        const uintptr_t address = reinterpret_cast<uintptr_t>(numbers.data()) / sizeof(float);
        return numbers.data() + (FLOATS - address % FLOATS) % FLOATS + row * width;
    }

  private:
    static constexpr int64_t FLOATS = LINE / sizeof(float);
    int64_t width;
    std::vector<float> numbers;
};

template <Order order, typename T>
void forward_rows(const Layer& layer, const Member* members) {
    const int64_t D = layer.features;
#pragma omp parallel num_threads(layer.threads)
    {
        Rows buffer(2, D);
#pragma omp for schedule(static)
        for (int64_t i = 0; i < layer.members * layer.rows; i++)
            forward_row<order, T>(layer, members[i / layer.rows], i % layer.rows, buffer[0], buffer[1]);
    }
}

template <Order order, typename T, bool learned>
void backward_rows(const Layer& layer, const Member* members) {
    const int64_t D = layer.features, parts = learned ? 3 * layer.members : 0;
    Rows shares(layer.threads * parts, D);  // each thread's of the parameters' gradients
#pragma omp parallel num_threads(layer.threads)
    {
        Rows buffer(4, D);
        const int64_t own = parts * omp_get_thread_num();
#pragma omp for schedule(static)
        for (int64_t i = 0; i < layer.members * layer.rows; i++) {
            const int64_t part = learned ? own + 3 * (i / layer.rows) : 0;
            backward_row<order, T, learned>(layer, members[i / layer.rows], i % layer.rows, buffer[0], buffer[1],
                                            buffer[2], buffer[3], shares[part], shares[part + 1], shares[part + 2]);
        }
#pragma omp for schedule(static)
        for (int64_t part = 0; part < parts; part++) {
            const Member& member = members[part / 3];
            float* const totals[] = {member.of_bias, member.of_weight, member.of_shift};
            float* total = totals[part % 3];
            for (int thread = 0; thread < layer.threads; thread++)
                for (int64_t i = 0; i < D; i++) total[i] += shares[thread * parts + part][i];
        }
    }
}

template <typename T>
void forward_of(const Layer& layer, const Member* members, Order order) {
    if (order == mish_of_norm) forward_rows<mish_of_norm, T>(layer, members);
    if (order == norm_of_mish) forward_rows<norm_of_mish, T>(layer, members);
    if (order == simnorm_of_norm) forward_rows<simnorm_of_norm, T>(layer, members);
}

template <typename T, bool learned>
void backward_of(const Layer& layer, const Member* members, Order order) {
    if (order == mish_of_norm) backward_rows<mish_of_norm, T, learned>(layer, members);
    if (order == norm_of_mish) backward_rows<norm_of_mish, T, learned>(layer, members);
    if (order == simnorm_of_norm) backward_rows<simnorm_of_norm, T, learned>(layer, members);
}

}  // namespace

extern "C" {

// `low`: rows are of bfloat16 numbers, else of floats.
void forward(const Layer* layer, const Member* members, Order order, bool low) {
    (low ? forward_of<bfloat16> : forward_of<float>)(*layer, members, order);
}

// The parameters' gradients are computed if the members have a place for them.
void backward(const Layer* layer, const Member* members, Order order, bool low) {
    if (members->of_bias)
        (low ? backward_of<bfloat16, true> : backward_of<float, true>)(*layer, members, order);
    else
        (low ? backward_of<bfloat16, false> : backward_of<float, false>)(*layer, members, order);
}
}
