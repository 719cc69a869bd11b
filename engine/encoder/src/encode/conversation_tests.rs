//! Texts within conversations, on a small Gemma with dictionaries of random weights.

use super::*;
use crate::reader::{ChatColumns, Message};
use crate::sae::random::Random;
use crate::sae::{Architecture, Spec, Weights};
use crate::testing;

const WIDTH: usize = 48;

/// A dictionary of random weights over the residual stream after the first block.
fn sae(reader: &Reader, level: Level) -> Arc<Sae> {
    let input_width = reader.width();
    let spec = Spec {
        name: format!("random-{}", level.as_str()),
        reader: reader.name().to_owned(),
        level,
        k: 6,
        ..testing::spec(Architecture::TopK { k: 6 }, WIDTH, input_width)
    };
    let numbers = |seed: u64| testing::numbers(seed, 7, WIDTH * input_width, 1.0);
    let weights = Weights {
        encoder: numbers(1),
        encoder_bias: vec![0.0; WIDTH],
        decoder: numbers(2),
        decoder_bias: vec![0.0; input_width],
        ..Weights::default()
    };
    Arc::new(Sae::new(spec, weights))
}

fn encoder() -> Encoder {
    let reader = Arc::new(testing::gemma());
    let saes = vec![sae(&reader, Level::Token), sae(&reader, Level::Span)];
    Encoder::new(reader, saes).unwrap()
}

/// Letters, each a token.
fn letters(seed: u64, n: usize) -> String {
    let mut random = Random::new(seed, 3);
    let letters: Vec<String> = (0..n).map(|_| char::from(b'A' + random.below(26) as u8).to_string()).collect();
    letters.join(" ")
}

fn conversation(prompt: &str, answer: &str) -> [Message; 2] {
    [("user", prompt), ("assistant", answer)]
        .map(|(role, content)| Message { role: role.to_owned(), content: content.to_owned() })
}

fn same(a: &[(u32, f32)], b: &[(u32, f32)]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.0 == b.0 && (a.1 - b.1).abs() < 1e-3 * b.1.abs() + 1e-4)
}

#[test]
fn a_text_in_its_conversation_has_the_features_of_its_own_tokens() {
    let encoder = encoder();
    let template = encoder.reader().chat_template().unwrap().clone();
    // One window; several windows, of which the first ones are the prompt's alone; several pieces.
    for (prompt, answer) in [(5, 9), (200, 100), (20, 700), (600, 3)] {
        let (prompt, answer) = (letters(1, prompt), format!(" {}", letters(2, answer)));
        let messages = conversation(&prompt, &answer);
        let passage = template.passage(&answer, &messages).unwrap();
        let whole = template.render(&messages, false).unwrap();
        let begin = whole.find("model\n").unwrap() + "model\n".len();
        let shift = begin - 1; // the template takes the space before the answer
        let end = shift + answer.len();
        assert_eq!(passage.whole(), whole);

        let all = encoder.tokens(&whole).unwrap();
        let own: Vec<&EncodedToken> = all.iter().filter(|token| (begin..end).contains(&token.start)).collect();
        let tokens = encoder.tokens_of(&passage).unwrap();
        assert_eq!(tokens.len(), answer.split_whitespace().count());
        assert_eq!(tokens.len(), own.len());
        for (token, of_whole) in tokens.iter().zip(&own) {
            assert_eq!((token.start + shift, token.end + shift), (of_whole.start, of_whole.end));
            assert!(answer[token.start..token.end].chars().all(|c| c.is_ascii_uppercase()));
            assert!(same(&token.latents[0], &of_whole.latents[0]), "{token:?} and {of_whole:?}");
        }

        let document = encoder.encode_passages(std::slice::from_ref(&passage)).unwrap().remove(0);
        assert_eq!(document.n_tokens as usize, own.len());
        for dictionary in 0..2 {
            let mut strongest = std::collections::BTreeMap::<u32, f32>::new();
            for &(latent, value) in tokens.iter().flat_map(|token| &token.latents[dictionary]) {
                let most = strongest.entry(latent).or_default();
                *most = most.max(value);
            }
            let features = &document.features[dictionary];
            let stored: Vec<(u32, f32)> =
                features.latents.iter().copied().zip(features.activations.iter().map(|value| value.to_f32())).collect();
            let want: Vec<(u32, f32)> = strongest.into_iter().collect();
            assert!(!stored.is_empty() && stored.len() == want.len());
            assert!(stored.iter().zip(&want).all(|(a, b)| a.0 == b.0 && (a.1 / b.1 - 1.0).abs() < 2e-3));
        }
        // Sentences are those of the answer alone.
        let alone = encoder.encode(&[&answer]).unwrap().remove(0);
        assert_eq!(alone.n_tokens, document.n_tokens);
        if tokens.len() < 40 {
            assert_eq!(alone.n_spans, document.n_spans);
        }
        // What stands before it changes what is read.
        assert!(alone.features[0] != document.features[0] && alone.embedding != document.embedding);
    }
}

#[test]
fn passages_of_all_kinds_are_read_together() {
    let encoder = encoder();
    let template = encoder.reader().chat_template().unwrap().clone();
    let columns: ChatColumns = "user=q,assistant=a,user=p,assistant=b".parse().unwrap();
    let values = [("q", letters(3, 30)), ("a", letters(4, 50)), ("p", letters(5, 40)), ("b", letters(6, 20))];
    let value = |column: &str| values.iter().find(|(name, _)| *name == column).map(|(_, text)| text.as_str());
    let both = columns.passage(&template, &["a".to_owned(), "b".to_owned()], value).unwrap();
    let last = columns.passage(&template, &["b".to_owned()], value).unwrap();
    let alone = letters(7, 90);
    let empty = Passage::from("");
    let passages = [both, Passage::from(alone.as_str()), empty, last];
    let documents = encoder.encode_passages(&passages).unwrap();
    assert_eq!(documents.iter().map(|document| document.n_tokens).collect::<Vec<_>>(), [70, 90, 0, 20]);
    assert!(documents[2].features[0].latents.is_empty());
    assert_eq!(documents[1].features[0].latents, encoder.encode(&[&alone]).unwrap()[0].features[0].latents);
    // Two answers of one conversation: the tokens of the second are read as if it were the only text.
    let (both, last) = (encoder.tokens_of(&passages[0]).unwrap(), encoder.tokens_of(&passages[3]).unwrap());
    let second = values[1].1.len() + 2;
    for (token, alone) in both[50..].iter().zip(&last) {
        assert_eq!((token.start, token.end), (alone.start + second, alone.end + second));
        assert!(same(&token.latents[0], &alone.latents[0]));
    }
    assert_eq!(passages[0].text()[second..], values[3].1);
}
