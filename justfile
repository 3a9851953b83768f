# The habits of this repository; `just` lists them.

[private]
default:
    @just --list

# A practice with data and every role, from nothing: `just demo --port 0`
demo *args:
    cargo run --release -- demo {{ args }}

# Every check and test; `just test causelist-queue`, `just test crash` for a part
test *filter:
    tests/run {{ filter }}

# What tests/run asks of the code before it runs the tests
lint:
    cargo fmt --all --check
    cargo clippy --workspace --all-targets -- -D warnings

# Format the code
fmt:
    cargo fmt --all

# The queue beside the limit: `just bench --only drain,end-to-end`; `just bench sla --tasks 100000`
bench *args:
    cargo run --release -- bench {{ args }}

# The book, into target/book (needs mdbook)
docs:
    mdbook build docs

# What is wrong with the database that DATABASE_URL names, and how to mend it
doctor *args:
    cargo run -- doctor {{ args }}

# Licences, sources and known vulnerabilities of the dependencies (needs cargo-deny)
deny:
    cargo deny check
