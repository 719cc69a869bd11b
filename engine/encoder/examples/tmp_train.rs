use saequel_encoder::sae::{TrainOptions, train};
use saequel_encoder::{Progress, ReaderOptions};
struct P;
impl Progress for P {
    fn stage(&self, n: &str, t: Option<u64>, u: &str) {
        eprintln!("stage {n} {t:?} {u}");
    }
    fn update(&self, d: u64, s: &str) {
        eprintln!("  {d} {s}");
    }
    fn finish(&self, s: &str) {
        eprintln!("done {s}");
    }
    fn warn(&self, s: &str) {
        eprintln!("warn {s}");
    }
}
fn main() {
    let a: Vec<String> = std::env::args().collect();
    let mut o = TrainOptions::new(vec![a[2].clone().into()], &a[3], &a[4]);
    o.reader = a[1].clone();
    o.layer = a[5].parse().unwrap();
    o.tokens = a[6].parse().unwrap();
    o.samples = a[7].parse().unwrap();
    o.width = a[8].parse().unwrap();
    o.reader_options = ReaderOptions { threads: 2, ..ReaderOptions::default() };
    println!("{:?}", train(&o, &P));
}
