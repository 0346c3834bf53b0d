// A rung's element-wise work, fused: each value is read and written once where torch's operations would pass over it
// a dozen times. Forward and backward of
//
//   rise     h = activation(gamma (BN(z_pre) + noise + beta)) of up to three streams, each with its own statistics
//   descend  u = BN(u_pre), z_hat = g(z_noisy, u) with the Gaussian combinator, and the mean over
//            (z_clean - (z_hat - mean) inverse_std)^2
//
// and, further down, the noise (normal) and Adam's update (adam).
//
// Equations: docs/algorithm.md. All matrices are (rows, features), row after row; statistics are those of a column.
// A vector holds neighbouring columns, so every sum over rows is in one order, whatever the number of threads.
//
// T is the type that is computed in; In and Out are those of the neighbouring matrix products, bfloat16 or T.

#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>
#include <vector>
#ifdef __AVX512F__
#include <immintrin.h>
#endif

namespace {

constexpr int64_t ONE_THREAD_VALUES = 16384;  // below, waking a second thread costs more than it saves
constexpr int STREAMS = 3;

// Vectors of 64 bytes, which the compiler cuts down to what the processor has.
template <class T>
constexpr int64_t LANES = 64 / sizeof(T);

typedef float Floats __attribute__((vector_size(64)));
typedef double Doubles __attribute__((vector_size(64)));
typedef uint32_t Words __attribute__((vector_size(64)));
typedef int32_t Integers __attribute__((vector_size(64)));
typedef uint16_t Halves __attribute__((vector_size(32)));

template <class T>
using Lanes = std::conditional_t<std::is_same_v<T, double>, Doubles, Floats>;

struct bfloat16 {
    uint16_t bits;
};

// A block of columns is whole, or the last one with fewer; the other lanes are then 0.
struct Whole {};

template <class To, class From>
inline To copy(const From* from, Whole) {
    To to;
    std::memcpy(&to, from, sizeof(To));
    return to;
}
template <class To, class From>
inline void copy_to(To* to, const From& from, Whole) {
    std::memcpy(to, &from, sizeof(From));
}

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__)
template <class To, class From>
inline To copy(const From* from, int64_t width) {
    const uint32_t mask = (1u << width) - 1;
    if constexpr (sizeof(From) == 8) return (To)_mm512_maskz_loadu_epi64(__mmask8(mask), from);
    if constexpr (sizeof(From) == 4) return (To)_mm512_maskz_loadu_epi32(__mmask16(mask), from);
    if constexpr (sizeof(From) == 2) return (To)_mm256_maskz_loadu_epi16(__mmask16(mask), from);
}
template <class To, class From>
inline void copy_to(To* to, const From& from, int64_t width) {
    const uint32_t mask = (1u << width) - 1;
    if constexpr (sizeof(To) == 8) _mm512_mask_storeu_epi64(to, __mmask8(mask), (__m512i)from);
    if constexpr (sizeof(To) == 4) _mm512_mask_storeu_epi32(to, __mmask16(mask), (__m512i)from);
    if constexpr (sizeof(To) == 2) _mm256_mask_storeu_epi16(to, __mmask16(mask), (__m256i)from);
}
#else
template <class To, class From>
inline To copy(const From* from, int64_t width) {
    From items[sizeof(To) / sizeof(From)] = {};
    for (int64_t i = 0; i < width; i++) items[i] = from[i];
    return copy<To>(items, Whole());
}
template <class To, class From>
inline void copy_to(To* to, const From& from, int64_t width) {
    To items[sizeof(From) / sizeof(To)];
    copy_to(items, from, Whole());
    for (int64_t i = 0; i < width; i++) to[i] = items[i];
}
#endif

template <class Width>
inline Floats load(const float* from, Width width) {
    return copy<Floats>(from, width);
}
template <class Width>
inline Doubles load(const double* from, Width width) {
    return copy<Doubles>(from, width);
}
template <class Width>
inline Floats load(const bfloat16* from, Width width) {
    return (Floats)(__builtin_convertvector(copy<Halves>(from, width), Words) << 16);
}
template <class Width>
inline void store(float* to, Floats x, Width width) {
    copy_to(to, x, width);
}
template <class Width>
inline void store(double* to, Doubles x, Width width) {
    copy_to(to, x, width);
}
template <class Width>
inline void store(bfloat16* to, Floats x, Width width) {  // to the nearest, ties to even; NaN stays NaN
    const Words word = (Words)x;
    const Words rounded = (word + 0x7fff + ((word >> 16) & 1)) >> 16;
    copy_to(to, __builtin_convertvector(x == x ? rounded : (word >> 16) | 0x40, Halves), width);
}

inline Doubles exponential(Doubles x) {
    for (int i = 0; i < LANES<double>; i++) x[i] = std::exp(x[i]);
    return x;
}

// 2^n e^f with f the rest of x to the nearest multiple n of log 2; e^f by its Taylor series. Within 2 units in the
// last place.
inline Floats exponential(Floats x) {
    x = x < -87.0f ? -87.0f - 0 * x : x;  // NaN stays NaN
    x = x > 88.0f ? 88.0f + 0 * x : x;
    const Floats shifted = x * 1.44269504f + 12582912.0f;  // 1.5 * 2^23: rounds to a whole number
    const Floats n = shifted - 12582912.0f;
    const Floats f = x - n * 0.693145752f - n * 1.42860677e-6f;
    Floats e = f * (1.0f / 5040) + 1.0f / 720;
    e = e * f + 1.0f / 120;
    e = e * f + 1.0f / 24;
    e = e * f + 1.0f / 6;
    e = e * f + 0.5f;
    e = e * f + 1.0f;
    e = e * f + 1.0f;
    return e * (Floats)(((Words)shifted << 23) + 0x3f800000);
}

template <class V>
inline V sigmoid(V x) {
    return 1 / (1 + exponential(-x));
}

template <class V>
inline V square_root(V x) {
    for (size_t i = 0; i < sizeof(V) / sizeof(x[0]); i++) x[i] = std::sqrt(x[i]);
    return x;
}

// Calls work(first, width) for blocks of columns, which threads share out.
template <class T, class Work>
inline void for_columns(int64_t rows, int64_t features, const Work& work) {
    const int64_t whole = features / LANES<T>, rest = features % LANES<T>;
#pragma omp parallel for schedule(static) if (rows * features > ONE_THREAD_VALUES)
    for (int64_t block = 0; block < whole + (rest > 0); block++) {
        if (block < whole)
            work(block * LANES<T>, Whole());
        else
            work(block * LANES<T>, rest);
    }
}

template <class V>
struct Statistics {
    V mean, inverse_std;
};

// Mean and 1 / sqrt(var + epsilon) of the columns, in two passes.
template <class V, class T, class In, class Width>
inline Statistics<V> statistics(const In* x, int64_t rows, int64_t features, T epsilon, Width width) {
    V even = {}, odd = {};
    for (int64_t r = 0; r + 1 < rows; r += 2) {
        even += load(x + r * features, width);
        odd += load(x + (r + 1) * features, width);
    }
    if (rows % 2) even += load(x + (rows - 1) * features, width);
    const V mean = (even + odd) / T(rows);
    even = odd = V{};
    for (int64_t r = 0; r + 1 < rows; r += 2) {
        const V first = load(x + r * features, width) - mean, second = load(x + (r + 1) * features, width) - mean;
        even += first * first;
        odd += second * second;
    }
    if (rows % 2) {
        const V last = load(x + (rows - 1) * features, width) - mean;
        even += last * last;
    }
    return {mean, 1 / square_root((even + odd) / T(rows) + epsilon)};
}

// z holds each stream's noise where noisy, and its values BN(z_pre) + noise afterwards. The running statistics, where
// they are not null, follow those of the last stream, whose variance is made unbiased.
template <class T, class In, class Out>
void rise(const In* z_pre, Out* h, T* mean, T* inverse_std, const T* beta, const T* gamma, T* const* z,
          const int64_t* rows, const bool* noisy, int64_t features, T slope, T epsilon, T* running_mean,
          T* running_var, T weight) {
    using V = Lanes<T>;
    for_columns<T>(rows[0] + rows[1] + rows[2], features, [=](int64_t first, auto width) {
        const V shift = load(beta + first, width), scale = gamma ? load(gamma + first, width) : V{} + 1;
        int64_t at = first;
        for (int s = 0; s < STREAMS; s++) {
            if (rows[s] == 0) continue;
            const auto [m, v] = statistics<V>(z_pre + at, rows[s], features, epsilon, width);
            store(mean + s * features + first, m, width);
            store(inverse_std + s * features + first, v, width);
            if (running_mean && (s + 1 == STREAMS || rows[s + 1] == 0)) {
                const V var = (1 / (v * v) - epsilon) * (T(rows[s]) / T(rows[s] - 1));
                const V old_mean = load(running_mean + first, width), old_var = load(running_var + first, width);
                store(running_mean + first, old_mean + weight * (m - old_mean), width);
                store(running_var + first, old_var + weight * (var - old_var), width);
            }
            const bool has_noise = noisy[s];
            T* to = z[s] + first;
            for (int64_t r = 0; r < rows[s]; r++, at += features, to += features) {
                V value = (load(z_pre + at, width) - m) * v;
                if (has_noise) value += load(to, width);
                store(to, value, width);
                const V shifted = scale * (value + shift);
                store(h + at, shifted > 0 ? shifted : slope * shifted, width);
            }
        }
    });
}

// grad_mean and grad_inverse_std are those of the last stream. They and grad_z's are null where nothing came down.
template <class T, class In, class Out>
void rise_back(const In* z_pre, const Out* h, const T* mean, const T* inverse_std, const T* beta, const T* gamma,
               const T* const* z, const int64_t* rows, int64_t features, T slope, const Out* grad_h,
               const T* const* grad_z, const T* grad_mean, const T* grad_inverse_std, In* grad_z_pre, T* grad_beta,
               T* grad_gamma) {
    using V = Lanes<T>;
    for_columns<T>(rows[0] + rows[1] + rows[2], features, [=](int64_t first, auto width) {
        const V shift = load(beta + first, width), scale = gamma ? load(gamma + first, width) : V{} + 1;
        V beta_sum = {}, gamma_sum = {};
        int64_t start = first;
        for (int s = 0; s < STREAMS; s++) {
            if (rows[s] == 0) continue;
            const T n = T(rows[s]);
            const V m = load(mean + s * features + first, width), v = load(inverse_std + s * features + first, width);
            // d cost / d h through the activation, and d cost / d z from the decoder where something came down.
            const auto from_above = [&](int64_t at) {
                const V g = grad_h ? load(grad_h + at, width) : V{};
                return load(h + at, width) > 0 ? g : slope * g;
            };
            const auto from_decoder = [&](int64_t r) {
                return grad_z[s] ? load(grad_z[s] + r * features + first, width) : V{};
            };
            V g_sum = {}, gz_sum = {};
            for (int64_t r = 0, at = start; r < rows[s]; r++, at += features) {
                const V above = from_above(at), g = scale * above + from_decoder(r);
                beta_sum += scale * above;
                if (gamma) gamma_sum += above * (load(z[s] + r * features + first, width) + shift);
                g_sum += g;
                gz_sum += g * ((load(z_pre + at, width) - m) * v);
            }
            const bool last = s + 1 == STREAMS || rows[s + 1] == 0;
            const V to_mean = last && grad_mean ? load(grad_mean + first, width) : V{};
            const V to_std = last && grad_inverse_std ? load(grad_inverse_std + first, width) : V{};
            const V constant = (to_mean - v * g_sum) / n, linear = -v * (gz_sum + v * to_std) / n;
            for (int64_t r = 0, at = start; r < rows[s]; r++, at += features) {
                const V g = scale * from_above(at) + from_decoder(r);
                store(grad_z_pre + at, v * g + constant + linear * ((load(z_pre + at, width) - m) * v), width);
            }
            start += rows[s] * features;
        }
        store(grad_beta + first, beta_sum, width);
        if (gamma) store(grad_gamma + first, gamma_sum, width);
    });
}

// z_clean is null where no cost is wanted; mean_clean and inverse_std_clean are null at the input, which is compared
// as it is. The cost is the mean over all elements.
template <class T, class In, class Out>
void descend(const In* u_pre, const T* z_noisy, const T* a, const T* z_clean, const T* mean_clean,
             const T* inverse_std_clean, T* mean, T* inverse_std, Out* z_hat, T* cost, int64_t rows, int64_t features,
             T epsilon) {
    using V = Lanes<T>;
    std::vector<double> errors(features, 0.0);
    double* const error_sums = errors.data();
    for_columns<T>(rows, features, [=](int64_t first, auto width) {
        V a_[11];
        for (int k = 1; k <= 10; k++) a_[k] = load(a + (k - 1) * features + first, width);
        const V m_clean = mean_clean ? load(mean_clean + first, width) : V{};
        const V v_clean = inverse_std_clean ? load(inverse_std_clean + first, width) : V{} + 1;
        const auto [m, v] = statistics<V>(u_pre + first, rows, features, epsilon, width);
        store(mean + first, m, width);
        store(inverse_std + first, v, width);
        V error = {};
        for (int64_t at = first; at < rows * features; at += features) {
            const V u = (load(u_pre + at, width) - m) * v;
            const V mu = a_[1] * sigmoid(a_[2] * u + a_[3]) + a_[4] * u + a_[5];
            const V var = a_[6] * sigmoid(a_[7] * u + a_[8]) + a_[9] * u + a_[10];
            const V estimate = (load(z_noisy + at, width) - mu) * var + mu;
            store(z_hat + at, estimate, width);
            if (z_clean) {
                const V d = (estimate - m_clean) * v_clean - load(z_clean + at, width);
                error += d * d;
            }
        }
        for (int64_t i = 0; i < LANES<T> && first + i < features; i++) error_sums[first + i] = double(error[i]);
    });
    double sum = 0;
    for (double error : errors) sum += error;
    *cost = T(sum / (double(rows) * double(features)));
}

// grad_z_hat is null where nothing is below; grad_cost is null without a cost.
template <class T, class In, class Out>
void descend_back(const In* u_pre, const T* z_noisy, const T* a, const T* z_clean, const T* mean_clean,
                  const T* inverse_std_clean, const T* mean, const T* inverse_std, const Out* grad_z_hat,
                  const T* grad_cost, In* grad_u_pre, T* grad_z_noisy, T* grad_a, T* grad_z_clean, T* grad_mean_clean,
                  T* grad_inverse_std_clean, int64_t rows, int64_t features) {
    using V = Lanes<T>;
    const T factor = grad_cost ? T(2) * *grad_cost / (T(rows) * T(features)) : T(0);
    for_columns<T>(rows, features, [=](int64_t first, auto width) {
        V a_[11], grad_a_[11] = {};
        for (int k = 1; k <= 10; k++) a_[k] = load(a + (k - 1) * features + first, width);
        const V m_clean = mean_clean ? load(mean_clean + first, width) : V{};
        const V v_clean = inverse_std_clean ? load(inverse_std_clean + first, width) : V{} + 1;
        const V m = load(mean + first, width), v = load(inverse_std + first, width);
        V mean_sum = {}, std_sum = {}, g_sum = {}, gu_sum = {};
        static thread_local std::vector<T> kept;  // d cost / d u
        kept.resize(rows * LANES<T>);
        T* to_u = kept.data();
        for (int64_t at = first; at < rows * features; at += features, to_u += LANES<T>) {
            const V u = (load(u_pre + at, width) - m) * v;
            const V s_mu = sigmoid(a_[2] * u + a_[3]), s_var = sigmoid(a_[7] * u + a_[8]);
            const V mu = a_[1] * s_mu + a_[4] * u + a_[5], var = a_[6] * s_var + a_[9] * u + a_[10];
            const V lateral = load(z_noisy + at, width) - mu;
            V g = grad_z_hat ? load(grad_z_hat + at, width) : V{};
            if (grad_cost) {
                const V centred = lateral * var + mu - m_clean;
                const V d = factor * (centred * v_clean - load(z_clean + at, width));
                if (grad_z_clean) store(grad_z_clean + at, -d, width);
                mean_sum -= d * v_clean;
                std_sum += d * centred;
                g += d * v_clean;
            }
            store(grad_z_noisy + at, g * var, width);
            const V g_mu = g * (1 - var), g_var = g * lateral;
            const V t_mu = g_mu * a_[1] * s_mu * (1 - s_mu), t_var = g_var * a_[6] * s_var * (1 - s_var);
            grad_a_[1] += g_mu * s_mu;
            grad_a_[2] += t_mu * u;
            grad_a_[3] += t_mu;
            grad_a_[4] += g_mu * u;
            grad_a_[5] += g_mu;
            grad_a_[6] += g_var * s_var;
            grad_a_[7] += t_var * u;
            grad_a_[8] += t_var;
            grad_a_[9] += g_var * u;
            grad_a_[10] += g_var;
            const V g_u = g_mu * a_[4] + t_mu * a_[2] + g_var * a_[9] + t_var * a_[7];
            store(to_u, g_u, Whole());
            g_sum += g_u;
            gu_sum += g_u * u;
        }
        to_u = kept.data();
        for (int64_t at = first; at < rows * features; at += features, to_u += LANES<T>) {
            const V u = (load(u_pre + at, width) - m) * v;
            store(grad_u_pre + at, v * (load(to_u, Whole()) - (g_sum + u * gu_sum) / T(rows)), width);
        }
        for (int k = 1; k <= 10; k++) store(grad_a + (k - 1) * features + first, grad_a_[k], width);
        if (grad_mean_clean) store(grad_mean_clean + first, mean_sum, width);
        if (grad_inverse_std_clean) store(grad_inverse_std_clean + first, std_sum, width);
    });
}

// Standard normal numbers: xoshiro128++ (Blackman and Vigna 2021), 16 of them side by side, then Box and Muller (1958).
// A chunk of the numbers has generators of its own, seeded by splitmix64 from the seed and the chunk's number, so that
// the numbers do not depend on how the threads share them out.

constexpr int64_t CHUNK = 8192;

inline uint64_t splitmix(uint64_t& state) {
    uint64_t x = state += 0x9e3779b97f4a7c15;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
    x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
    return x ^ (x >> 31);
}

inline Words rotated(Words x, int bits) { return (x << bits) | (x >> (32 - bits)); }

struct Random {
    Words s[4];

    Random(uint64_t seed, uint64_t chunk) {
        uint64_t state = seed, skip = chunk;
        state ^= splitmix(skip);
        for (int i = 0; i < LANES<float>; i++)
            for (int k = 0; k < 4; k += 2) {
                const uint64_t bits = splitmix(state);
                s[k][i] = uint32_t(bits);
                s[k + 1][i] = uint32_t(bits >> 32);
            }
    }

    // Whole numbers below 2^24, as floats.
    Floats next() {
        const Words result = rotated(s[0] + s[3], 7) + s[0], t = s[1] << 9;
        s[2] ^= s[0];
        s[3] ^= s[1];
        s[1] ^= s[2];
        s[0] ^= s[3];
        s[2] ^= t;
        s[3] = rotated(s[3], 11);
        return __builtin_convertvector((Integers)(result >> 8), Floats);
    }
};

// Natural logarithm of numbers in [2^-24, 1]: m 2^n with m in [0.75, 1.5), and 2 artanh((m - 1) / (m + 1)) as a series.
inline Floats logarithm(Floats x) {
    const Integers n = ((Integers)x - 0x3f400000) >> 23;
    const Floats m = (Floats)((Integers)x - (n << 23));
    const Floats t = (m - 1) / (m + 1), t2 = t * t;
    const Floats series = 1 + t2 * (1.0f / 3 + t2 * (1.0f / 5 + t2 * (1.0f / 7 + t2 * (1.0f / 9))));
    return __builtin_convertvector(n, Floats) * 0.693147181f + 2 * t * series;
}

// Cosine and sine of 2 pi x for x in [0, 1): of the rest to the nearest quarter turn by their Taylor series.
inline void turn(Floats x, Floats& cosine, Floats& sine) {
    const Integers quarter = __builtin_convertvector(4 * x + 0.5f, Integers);
    const Floats f = (x - 0.25f * __builtin_convertvector(quarter, Floats)) * 6.28318531f, f2 = f * f;
    const Floats c = 1 + f2 * (-1.0f / 2 + f2 * (1.0f / 24 + f2 * (-1.0f / 720 + f2 * (1.0f / 40320))));
    const Floats s = f * (1 + f2 * (-1.0f / 6 + f2 * (1.0f / 120 + f2 * (-1.0f / 5040))));
    const Integers swapped = (quarter & 1) != 0, q = quarter & 3;
    cosine = swapped ? s : c;
    sine = swapped ? c : s;
    cosine = (q == 1) | (q == 2) ? -cosine : cosine;
    sine = q >= 2 ? -sine : sine;
}

inline void normal(float* to, int64_t count, float std, uint64_t seed) {
#pragma omp parallel for schedule(static) if (count > ONE_THREAD_VALUES)
    for (int64_t chunk = 0; chunk < (count + CHUNK - 1) / CHUNK; chunk++) {
        Random random(seed, uint64_t(chunk));
        const int64_t end = count < (chunk + 1) * CHUNK ? count : (chunk + 1) * CHUNK;
        for (int64_t at = chunk * CHUNK; at < end; at += 2 * LANES<float>) {
            const Floats square = -2 * logarithm((random.next() + 1) * 5.9604645e-8f);  // 2^-24
            const Floats radius = std * square_root(square > 0 ? square : 0 * square);
            Floats pair[2];
            turn(random.next() * 5.9604645e-8f, pair[0], pair[1]);
            pair[0] *= radius;
            pair[1] *= radius;
            std::memcpy(to + at, pair, sizeof(float) * (end - at < 2 * LANES<float> ? end - at : 2 * LANES<float>));
        }
    }
}

// One step of Adam (Kingma and Ba 2015) on `count` values. `low` is null, or receives the new values for the products.
template <class Grad>
inline void adam_values(float* value, const Grad* grad, float* m, float* v, Grad* low, int64_t count, double beta1,
                        double beta2, float size, float correction, float epsilon) {
    const float keep1 = float(beta1), keep2 = float(beta2), new1 = float(1 - beta1), new2 = float(1 - beta2);
    const auto update = [&](int64_t at, auto width) {
        const Floats g = load(grad + at, width);
        const Floats new_m = load(m + at, width) * keep1 + g * new1;
        const Floats new_v = load(v + at, width) * keep2 + g * g * new2;
        const Floats x = load(value + at, width) - size * new_m / (square_root(new_v) * correction + epsilon);
        store(m + at, new_m, width);
        store(v + at, new_v, width);
        store(value + at, x, width);
        if (low) store(low + at, x, width);
    };
    const int64_t whole = count - count % LANES<float>;
    for (int64_t at = 0; at < whole; at += LANES<float>) update(at, Whole());
    if (whole < count) update(whole, count - whole);
}

constexpr int64_t ADAM_CHUNK = 65536;

// `grads` are float, but bfloat16 where `low` is not null.
inline void adam(int64_t tensors, const void* const* grads, float* const* values, float* const* m, float* const* v,
                 float* const* steps, bfloat16* const* low, const int64_t* counts, double rate, double beta1,
                 double beta2, double epsilon) {
    std::vector<std::pair<int64_t, int64_t>> chunks;  // tensor, first value
    for (int64_t i = 0; i < tensors; i++) {
        ++*steps[i];
        for (int64_t at = 0; at < counts[i]; at += ADAM_CHUNK) chunks.emplace_back(i, at);
    }
    const int64_t number = int64_t(chunks.size());
#pragma omp parallel for schedule(static) if (number > 1)
    for (int64_t c = 0; c < number; c++) {
        const auto [i, at] = chunks[c];
        const int64_t count = counts[i] - at < ADAM_CHUNK ? counts[i] - at : ADAM_CHUNK;
        const float size = float(rate / (1 - std::pow(beta1, double(*steps[i]))));
        const float correction = float(1 / std::sqrt(1 - std::pow(beta2, double(*steps[i]))));
        if (low[i])
            adam_values(values[i] + at, (const bfloat16*)grads[i] + at, m[i] + at, v[i] + at, low[i] + at, count,
                        beta1, beta2, size, correction, float(epsilon));
        else
            adam_values<float>(values[i] + at, (const float*)grads[i] + at, m[i] + at, v[i] + at, nullptr, count,
                               beta1, beta2, size, correction, float(epsilon));
    }
}

}  // namespace

// Streams are passed one by one.
#define RISE(name, T, In, Out)                                                                                         \
    void rise_##name(const In* z_pre, Out* h, T* mean, T* inverse_std, const T* beta, const T* gamma, T* z0, T* z1,    \
                     T* z2, int64_t rows0, int64_t rows1, int64_t rows2, bool noisy0, bool noisy1, bool noisy2,        \
                     int64_t features, double slope, double epsilon, T* running_mean, T* running_var, double weight) { \
        T* const z[] = {z0, z1, z2};                                                                                   \
        const int64_t rows[] = {rows0, rows1, rows2};                                                                  \
        const bool noisy[] = {noisy0, noisy1, noisy2};                                                                 \
        rise(z_pre, h, mean, inverse_std, beta, gamma, z, rows, noisy, features, T(slope), T(epsilon), running_mean,   \
             running_var, T(weight));                                                                                  \
    }                                                                                                                  \
    void rise_back_##name(const In* z_pre, const Out* h, const T* mean, const T* inverse_std, const T* beta,           \
                          const T* gamma, const T* z0, const T* z1, const T* z2, int64_t rows0, int64_t rows1,         \
                          int64_t rows2, int64_t features, double slope, const Out* grad_h, const T* grad_z0,          \
                          const T* grad_z1, const T* grad_z2, const T* grad_mean, const T* grad_inverse_std,           \
                          In* grad_z_pre, T* grad_beta, T* grad_gamma) {                                               \
        const T* const z[] = {z0, z1, z2};                                                                             \
        const int64_t rows[] = {rows0, rows1, rows2};                                                                  \
        const T* const grad_z[] = {grad_z0, grad_z1, grad_z2};                                                         \
        rise_back(z_pre, h, mean, inverse_std, beta, gamma, z, rows, features, T(slope), grad_h, grad_z, grad_mean,    \
                  grad_inverse_std, grad_z_pre, grad_beta, grad_gamma);                                                \
    }
#define DESCEND(name, T, In, Out)                                                                                      \
    void descend_##name(const In* u_pre, const T* z_noisy, const T* a, const T* z_clean, const T* mean_clean,          \
                        const T* inverse_std_clean, T* mean, T* inverse_std, Out* z_hat, T* cost, int64_t rows,        \
                        int64_t features, double epsilon) {                                                            \
        descend(u_pre, z_noisy, a, z_clean, mean_clean, inverse_std_clean, mean, inverse_std, z_hat, cost, rows,       \
                features, T(epsilon));                                                                                 \
    }                                                                                                                  \
    void descend_back_##name(const In* u_pre, const T* z_noisy, const T* a, const T* z_clean, const T* mean_clean,     \
                             const T* inverse_std_clean, const T* mean, const T* inverse_std, const Out* grad_z_hat,   \
                             const T* grad_cost, In* grad_u_pre, T* grad_z_noisy, T* grad_a, T* grad_z_clean,          \
                             T* grad_mean_clean, T* grad_inverse_std_clean, int64_t rows, int64_t features) {          \
        descend_back(u_pre, z_noisy, a, z_clean, mean_clean, inverse_std_clean, mean, inverse_std, grad_z_hat,         \
                     grad_cost, grad_u_pre, grad_z_noisy, grad_a, grad_z_clean, grad_mean_clean,                       \
                     grad_inverse_std_clean, rows, features);                                                          \
    }

// Compiled once for each precision that is asked for, which takes a second rather than four.
extern "C" {
void normal_float32(float* to, int64_t count, double std, int64_t seed) {
    normal(to, count, float(std), uint64_t(seed));
}
void adam_float32(int64_t tensors, const void* const* grads, float* const* values, float* const* m, float* const* v,
                  float* const* steps, bfloat16* const* low, const int64_t* counts, double rate, double beta1,
                  double beta2, double epsilon) {
    adam(tensors, grads, values, m, v, steps, low, counts, rate, beta1, beta2, epsilon);
}
#if defined(LADDERNET_float64)
RISE(float64_float64_float64, double, double, double)
DESCEND(float64_float64_float64, double, double, double)
#elif defined(LADDERNET_bfloat16)
RISE(float32_bfloat16_bfloat16, float, bfloat16, bfloat16)
DESCEND(float32_bfloat16_bfloat16, float, bfloat16, bfloat16)
RISE(float32_bfloat16_float32, float, bfloat16, float)
RISE(float32_float32_float32, float, float, float)
DESCEND(float32_bfloat16_float32, float, bfloat16, float)
DESCEND(float32_float32_bfloat16, float, float, bfloat16)
DESCEND(float32_float32_float32, float, float, float)
#else
RISE(float32_float32_float32, float, float, float)
DESCEND(float32_float32_float32, float, float, float)
#endif
}
