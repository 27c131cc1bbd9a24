#pragma once
// The recurrence of an LSTM on the host, one direction of it.
//
// Samples have lengths of their own, and only their positions are computed. In what lies between the layer's input and its output these
// positions are rows, sample after sample: "rows" below. Each thread takes a share of the samples through all of their steps, with no
// barrier; a sample's numbers do not depend on the others.
#include <cstdint>

namespace pipecast {

struct LstmSequences {
  int64_t samples, positions;             // of the padded tensors
  int64_t rows;                           // the sum of the lengths
  const int32_t *length, *first, *order;  // of each sample: its length, its first row; the samples by falling length

  bool padded() const { return rows < samples * positions; }
};
// Reads the lengths (null: all are `positions`) into `room`: 3 * samples.
LstmSequences lstm_sequences(int64_t samples, int64_t positions, const int32_t* length, int32_t* room);

// rows x width, the rows of which are `width` of the `row` floats of a position of a padded tensor; and back, with 0 in the padding.
void gather_rows(const LstmSequences&, int64_t width, const float* padded, int64_t row, float* rows);
void scatter_rows(const LstmSequences&, int64_t width, const float* rows, float* padded);

struct LstmDirection {
  int64_t hidden;
  bool reverse;   // begins at each sample's last position
  int64_t y_row;  // floats of a position of y and dy: 2 * hidden where there are two directions
};

// Floats of the packed weight_hh, for the larger of the two below.
int64_t lstm_packed(int64_t hidden);

// gates: rows x 4 hidden, in: W_ih x; out: i, f, g, o. cell: rows x hidden. y: of this direction, padded. packed: lstm_packed() floats.
void lstm_forward(const LstmSequences&, const LstmDirection&, const float* weight_hh, const float* bias_ih, const float* bias_hh,
                  float* packed, float* gates, float* cell, float* y);
// dgates: rows x 4 hidden, the gradients before the gates' functions. dcell: samples x hidden of scratch.
void lstm_backward(const LstmSequences&, const LstmDirection&, const float* weight_hh, const float* gates, const float* cell,
                   const float* dy, float* packed, float* dcell, float* dgates);
// rows x hidden: what each step got from the one before it, 0 at the first.
void lstm_states_before(const LstmSequences&, const LstmDirection&, const float* y, float* before);

}  // namespace pipecast
