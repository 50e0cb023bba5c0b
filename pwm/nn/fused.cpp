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

// Mish x n / (n + 2) with w = e^x and n = w (w + 2); beyond 20 the factor of x is 1.
inline float mish(float x) {
    const float w = exponential(x), n = w * (w + 2.0f);
    return x * n / (n + 2.0f);
}

// The same, and its derivative.
inline float mish(float x, float& slope) {
    const float w = exponential(x), n = w * (w + 2.0f), r = 1.0f / (n + 2.0f);
    slope = (n + 4.0f * x * (n - w) * r) * r;
    return x * n * r;
}

struct Layer {
    int64_t rows, features;
    const float *bias, *weight, *shift;
    const uint8_t* kept;  // [rows, features], or none
    float scale, epsilon;
    int group, threads;  // SimNorm's number of features in a group
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
inline void dropout(const Layer& layer, int64_t row, float* x) {
    const uint8_t* kept = layer.kept + row * layer.features;
    for (int64_t i = 0; i < layer.features; i++) x[i] *= layer.scale * kept[i];
}

// x of one row.
template <typename T>
void input(const Layer& layer, const T* __restrict product, int64_t row, float* __restrict x) {
    const int64_t D = layer.features;
    product += row * D;
    const float* bias = layer.bias;
#pragma omp simd
    for (int64_t i = 0; i < D; i++) x[i] = load(product[i]) + bias[i];
    if (layer.kept) dropout(layer, row, x);
}

template <Order order, typename T>
void forward_rows(const Layer& layer, const void* product, void* output, float* mean, float* inverse_std) {
    const int64_t D = layer.features;
    const float *weight = layer.weight, *shift = layer.shift;
#pragma omp parallel num_threads(layer.threads)
    {
        std::vector<float> buffer(2 * D);
        float *x = buffer.data(), *same = x + D;
#pragma omp for schedule(static)
        for (int64_t row = 0; row < layer.rows; row++) {
            input(layer, static_cast<const T*>(product), row, x);
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
            mean[row] = center;
            inverse_std[row] = rate;
            auto* out = static_cast<Output<order, T>*>(output) + row * D;
#pragma omp simd
            for (int64_t i = 0; i < D; i++) {
                x[i] = (x[i] - center) * rate * weight[i] + shift[i];
                if (order == mish_of_norm) x[i] = mish(x[i]);
            }
            if (order == simnorm_of_norm) (layer.group == 8 ? simnorm<8> : simnorm<0>)(layer, x, same);
#pragma omp simd
            for (int64_t i = 0; i < D; i++) store(out[i], x[i]);
        }
    }
}

// `sums` [threads, 3, features], zero at first: each thread's share of the gradients of bias, weight and shift.
template <Order order, typename T>
void backward_rows(const Layer& layer, const void* product, const void* gradient, const float* mean,
                   const float* inverse_std, void* product_gradient, float* sums) {
    const int64_t D = layer.features;
    const float *weight = layer.weight, *shift = layer.shift;
#pragma omp parallel num_threads(layer.threads)
    {
        std::vector<float> buffer(4 * D);
        float *x = buffer.data(), *slopes = x + D, *g = slopes + D, *same = g + D;
        float* of_bias = sums + 3 * D * omp_get_thread_num();
        float *of_weight = of_bias + D, *of_shift = of_weight + D;
#pragma omp for schedule(static)
        for (int64_t row = 0; row < layer.rows; row++) {
            input(layer, static_cast<const T*>(product), row, x);
            const auto* above = static_cast<const Output<order, T>*>(gradient) + row * D;
#pragma omp simd
            for (int64_t i = 0; i < D; i++) g[i] = load(above[i]);
            const float center = mean[row], rate = inverse_std[row];
            float first = 0.0f, second = 0.0f, slope;
            if (order == simnorm_of_norm) {
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
                of_weight[i] += d * normal;
                of_shift[i] += d;
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
            if (layer.kept) dropout(layer, row, g);
            T* out = static_cast<T*>(product_gradient) + row * D;
#pragma omp simd
            for (int64_t i = 0; i < D; i++) {
                of_bias[i] += g[i];
                store(out[i], g[i]);
            }
        }
    }
}

}  // namespace

extern "C" {

// `low`: rows are of bfloat16 numbers, else of floats.
void forward(const Layer* layer, Order order, bool low, const void* product, void* output, float* mean,
             float* inverse_std) {
    const auto run = [&](auto run) { run(*layer, product, output, mean, inverse_std); };
    if (order == mish_of_norm) run(low ? forward_rows<mish_of_norm, bfloat16> : forward_rows<mish_of_norm, float>);
    if (order == norm_of_mish) run(low ? forward_rows<norm_of_mish, bfloat16> : forward_rows<norm_of_mish, float>);
    if (order == simnorm_of_norm)
        run(low ? forward_rows<simnorm_of_norm, bfloat16> : forward_rows<simnorm_of_norm, float>);
}

void backward(const Layer* layer, Order order, bool low, const void* product, const void* gradient,
              const float* mean, const float* inverse_std, void* product_gradient, float* sums) {
    const auto run = [&](auto run) { run(*layer, product, gradient, mean, inverse_std, product_gradient, sums); };
    if (order == mish_of_norm) run(low ? backward_rows<mish_of_norm, bfloat16> : backward_rows<mish_of_norm, float>);
    if (order == norm_of_mish) run(low ? backward_rows<norm_of_mish, bfloat16> : backward_rows<norm_of_mish, float>);
    if (order == simnorm_of_norm)
        run(low ? backward_rows<simnorm_of_norm, bfloat16> : backward_rows<simnorm_of_norm, float>);
}
}
