//! What is compressed comes back, from an inflate that is not ours.

use cooper_deflate::{END, Encoder};
use flate2::{Decompress, FlushDecompress, Status};
use proptest::prelude::*;

/// Compresses chunks one after another, and checks that the stream is all of them and ends where it ends.
fn round_trip(chunks: &[&[u8]]) -> Vec<Vec<u8>> {
    let mut encoder = Encoder::new();
    let segments: Vec<Vec<u8>> = chunks
        .iter()
        .map(|chunk| {
            let mut segment = Vec::new();
            encoder.segment(chunk, &mut segment);
            segment
        })
        .collect();
    let plain = chunks.concat();
    let stream = [segments.concat(), END.to_vec()].concat();
    let mut back = Vec::with_capacity(plain.len() + 1);
    let mut inflate = Decompress::new(false);
    let status = inflate.decompress_vec(&stream, &mut back, FlushDecompress::Finish).unwrap();
    assert_eq!((status, inflate.total_in() as usize), (Status::StreamEnd, stream.len()));
    assert!(back == plain, "{} bytes came back as {}", plain.len(), back.len());
    segments
}

fn noise(len: usize, mut state: u64) -> Vec<u8> {
    let mut step = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 56) as u8
    };
    (0..len).map(|_| step()).collect()
}

fn text(len: usize) -> Vec<u8> {
    let line = |i: u32| format!("{:x} is line {i}\n", i.wrapping_mul(2_654_435_761) >> (i % 29));
    let mut text: Vec<u8> = (0..)
        .map(line)
        .scan(0, |sum, l| {
            (*sum < len).then(|| {
                *sum += l.len();
                l
            })
        })
        .collect::<String>()
        .into();
    text.truncate(len);
    text
}

#[test]
fn every_length_around_the_edges() {
    let (noise, text, zeros) = (noise(70_000, 3), text(70_000), vec![0; 70_000]);
    for sample in [&noise, &text, &zeros] {
        for len in (0..600).chain(32_700..32_800).chain(65_250..65_300).chain(65_530..65_540) {
            round_trip(&[&sample[..len]]);
        }
    }
}

#[test]
fn distances_and_lengths_of_all_sizes() {
    for distance in
        [1, 2, 3, 4, 5, 7, 8, 9, 255, 4096, 32_766, 32_767, 32_768, 32_769, 65_535, 65_536, 65_537]
    {
        for length in [3, 4, 11, 12, 13, 19, 20, 21, 256, 257, 258, 259, 300, 600] {
            let mut data = noise(distance, distance as u64);
            (0..length).for_each(|i| data.push(data[i]));
            data.extend_from_slice(&noise(40, 9));
            round_trip(&[&data]);
        }
    }
}

#[test]
fn a_segment_depends_on_its_chunk_alone() {
    let chunks = [text(300_000), noise(100_000, 1), vec![0; 200_000], text(40_000), vec![]];
    let slices: Vec<&[u8]> = chunks.iter().map(Vec::as_slice).collect();
    let forth = round_trip(&slices);
    let backwards: Vec<&[u8]> = slices.iter().rev().copied().collect();
    let mut back = round_trip(&backwards);
    back.reverse();
    assert!(forth == back);
}

#[test]
fn what_does_not_compress_hardly_grows() {
    for len in [1, 100, 511, 512, 5_000, 1 << 20] {
        let segment = &round_trip(&[&noise(len, 5)])[0];
        assert!(segment.len() <= len + 6 + 5 * len.div_ceil(512), "{len} became {}", segment.len());
        assert!(segment.len() <= len + 10 + len / 5_000, "{len} became {}", segment.len());
    }
    // Nor does it hide what comes after it.
    let mixed = [noise(200_000, 1), text(200_000), noise(300, 4), text(3_000), noise(200_000, 2)].concat();
    let sum: usize = [200_000, 300, 200_000].iter().sum::<usize>() + round_trip(&[&text(200_000)])[0].len();
    let segment = &round_trip(&[&mixed])[0];
    assert!(segment.len() < sum + 4_000, "{} for {sum}", segment.len());
    let zeros = &round_trip(&[&vec![0; 1 << 20]])[0];
    assert!(zeros.len() < 1_600, "{}", zeros.len());
}

/// The bytes themselves: who changes them changes every image's digest, and has to mean it.
#[test]
fn the_bytes_are_what_they_were() {
    let crc = |data: &[u8]| {
        let mut crc = flate2::Crc::new();
        crc.update(&round_trip(&[data])[0]);
        crc.sum()
    };
    let mixed = [text(150_000), noise(5_000, 7), vec![0; 9_000], noise(90_000, 8), text(99_999)].concat();
    assert_eq!(
        [crc(b""), crc(b"abcabcabcabcabcabc"), crc(&mixed)],
        [2_013_586_914, 1_736_926_263, 1_404_441_290]
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Pieces that repeat, at random distances, between others that do not.
    #[test]
    fn anything(pieces in prop::collection::vec((0usize..3000, any::<u64>(), 1u8..=255, 0usize..40_000), 0..40)) {
        let mut data: Vec<u8> = Vec::new();
        for (len, seed, mask, back) in pieces {
            match data.len().checked_sub(back) {
                Some(from) if seed % 3 > 0 => (from..from + len).for_each(|i| data.push(data.get(i).copied().unwrap_or(0))),
                _ => data.extend(noise(len, seed).into_iter().map(|byte| byte & mask)),
            }
        }
        let (a, b) = data.split_at(data.len() / 3);
        round_trip(&[a, b]);
    }
}
