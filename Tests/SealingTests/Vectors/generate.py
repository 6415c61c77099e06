#!/usr/bin/env python3
"""Writes the vectors of this folder: a second implementation of the formats, slow and obvious, sharing no code with the first.

Every file names what must come of it (`outcome`), what it is (`kind`), the keys and context to open it with, and the blob.
Run it only when a format changes; the files are committed.
"""
import hashlib, os, struct

HERE = os.path.dirname(os.path.abspath(__file__))

# --- XChaCha20-Poly1305 (RFC 8439, draft-irtf-cfrg-xchacha) ---
def rotl(x, n): return ((x << n) | (x >> (32 - n))) & 0xffffffff
def rounds(state):
    s = list(state)
    def quarter(a, b, c, d):
        s[a] = (s[a] + s[b]) & 0xffffffff; s[d] = rotl(s[d] ^ s[a], 16)
        s[c] = (s[c] + s[d]) & 0xffffffff; s[b] = rotl(s[b] ^ s[c], 12)
        s[a] = (s[a] + s[b]) & 0xffffffff; s[d] = rotl(s[d] ^ s[a], 8)
        s[c] = (s[c] + s[d]) & 0xffffffff; s[b] = rotl(s[b] ^ s[c], 7)
    for _ in range(10):
        quarter(0, 4, 8, 12); quarter(1, 5, 9, 13); quarter(2, 6, 10, 14); quarter(3, 7, 11, 15)
        quarter(0, 5, 10, 15); quarter(1, 6, 11, 12); quarter(2, 7, 8, 13); quarter(3, 4, 9, 14)
    return s
SIGMA = struct.unpack("<4I", b"expand 32-byte k")
def block(key, counter, nonce12):
    state = SIGMA + struct.unpack("<8I", key) + (counter,) + struct.unpack("<3I", nonce12)
    return struct.pack("<16I", *((a + b) & 0xffffffff for a, b in zip(rounds(state), state)))
def hchacha(key, nonce16):
    s = rounds(SIGMA + struct.unpack("<8I", key) + struct.unpack("<4I", nonce16))
    return struct.pack("<8I", *(s[:4] + s[12:]))
def stream(key, nonce12, data):
    out = bytearray()
    for i in range(0, len(data), 64):
        out += bytes(a ^ b for a, b in zip(data[i:i + 64], block(key, 1 + i // 64, nonce12)))
    return bytes(out)
def poly1305(key, message):
    r = int.from_bytes(key[:16], "little") & 0x0ffffffc0ffffffc0ffffffc0fffffff
    s, total = int.from_bytes(key[16:], "little"), 0
    for i in range(0, len(message), 16):
        total = (total + int.from_bytes(message[i:i + 16] + b"\1", "little")) * r % (2 ** 130 - 5)
    return ((total + s) % 2 ** 128).to_bytes(16, "little")
def pad(data): return data + bytes(-len(data) % 16)
def xchacha_seal(key, nonce24, associated, plaintext):
    subkey, nonce12 = hchacha(key, nonce24[:16]), bytes(4) + nonce24[16:]
    ciphertext = stream(subkey, nonce12, plaintext)
    message = pad(associated) + pad(ciphertext) + struct.pack("<QQ", len(associated), len(ciphertext))
    return ciphertext + poly1305(block(subkey, 0, nonce12)[:32], message)

# --- X25519 (RFC 7748) ---
P = 2 ** 255 - 19
def x25519(scalar, u):
    k = bytearray(scalar); k[0] &= 248; k[31] &= 127; k[31] |= 64
    k, x1 = int.from_bytes(k, "little"), int.from_bytes(u, "little") & (2 ** 255 - 1)
    x2, z2, x3, z3, swap = 1, 0, x1, 1, 0
    for t in reversed(range(255)):
        bit = k >> t & 1
        if swap ^ bit: x2, x3, z2, z3 = x3, x2, z3, z2
        swap = bit
        a, b, c, d = x2 + z2, x2 - z2, x3 + z3, x3 - z3
        aa, bb, da, cb = a * a % P, b * b % P, d * a % P, c * b % P
        e = aa - bb
        x3, z3 = (da + cb) ** 2 % P, x1 * (da - cb) ** 2 % P
        x2, z2 = aa * bb % P, e * (aa + 121665 * e) % P
    if swap: x2, z2 = x3, z3
    return (x2 * pow(z2, P - 2, P) % P).to_bytes(32, "little")
BASE = (9).to_bytes(32, "little")

# --- The formats ---
def hash_as(name, key, data, size): return hashlib.blake2b(data, digest_size=size, key=key, person=name.ljust(16, b"\0")).digest()
def seal(name, key, nonce, header, tail, plaintext):
    associated = name.ljust(16, b"\0") + struct.pack(">I", len(header)) + header + tail
    h = hashlib.blake2b(nonce + associated, digest_size=64, key=key, salt=nonce[:16], person=name.ljust(16, b"\0")).digest()
    return header + nonce + h[32:] + xchacha_seal(h[:32], nonce, associated, plaintext)
def prefixed(data): return struct.pack(">I", len(data)) + data

def fill(label, size): return hashlib.shake_128(label.encode()).digest(size)
KEYRING, ROOT, KEK_ID, KEK, DEK = fill("keyring", 16), fill("root", 32), fill("kek id", 16), fill("kek", 32), fill("dek", 32)
FILE_KEY, KEY_FILE, EPHEMERAL = fill("file key", 32), fill("key file", 32), fill("ephemeral", 32)
CREATED, DOMAIN, MEMBER, NAME, PLAIN = 1_700_000_000_000, 77, 5, b"\1/registry/secrets/prod/db", b"correct horse battery staple"

def value(plain=PLAIN, name=NAME, magic=0xE1, alg=1, flags=0, gen=3, key=DEK, keyring=KEYRING):
    header = struct.pack(">BBHIQ", magic, alg, flags, gen, DOMAIN)
    return seal(b"coffer.rec.v1", key, fill("nonce value", 24), header, keyring + prefixed(name), plain)
def dek(gen=3, kek=KEK, magic=0xD1, alg=1, flags=0, plain=DEK):
    header = struct.pack(">BBHIQ16sIQ", magic, alg, flags, gen, DOMAIN, KEK_ID, 2, CREATED)
    return seal(b"coffer.dek.v1", kek, fill("nonce dek", 24), header, KEYRING, plain)
def kek(version=2, root=ROOT, magic=0xC1, root_generation=4, keyring=KEYRING):
    header = struct.pack(">BBH16sIIQ", magic, 1, 0, KEK_ID, version, root_generation, CREATED)
    return seal(b"coffer.kek.v1", root, fill("nonce kek", 24), header, keyring, KEK)
def file_key(root=ROOT, root_generation=4, keyring=KEYRING):
    header = struct.pack(">BBHQIQ", 0xF1, 1, 6, MEMBER, root_generation, CREATED)
    return seal(b"coffer.fil.v1", root, fill("nonce file", 24), header, keyring, FILE_KEY)
def slot_secret(key_file): return hash_as(b"coffer.slot.v1", key_file, b"\0\1", 32)
def seal_file(slot_id=1, boxed_slot=None, boxed_generation=4, mac_root=ROOT, keyring=KEYRING, boxed_keyring=None, public=None, parameters=None):
    public = public or x25519(slot_secret(KEY_FILE), BASE)
    parameters = parameters or hash_as(b"coffer.kfid.v1", KEY_FILE, b"", 16) + public
    ephemeral_public = x25519(EPHEMERAL, BASE)
    shared = hash_as(b"coffer.box.v1", x25519(EPHEMERAL, public), ephemeral_public + public, 32)
    header = struct.pack(">BBHIIHH", 0xB1, 1, 0, boxed_generation, boxed_slot or slot_id, 1, 0) + ephemeral_public
    wrapped = seal(b"coffer.root.v1", shared, fill("nonce box", 24), header, (boxed_keyring or keyring) + prefixed(parameters), ROOT)
    body = b"CFSEAL1\0" + keyring + struct.pack(">IH", 4, 1) + struct.pack(">IHH", slot_id, 1, len(parameters)) + parameters
    body += struct.pack(">H", len(wrapped)) + wrapped
    return body + hash_as(b"coffer.mac.v1", hash_as(b"coffer.mac.v1", mac_root, b"", 32), body, 32)

def flipped(data, position): return data[:position] + bytes([data[position] ^ 1]) + data[position + 1:] if position >= 0 else flipped(data, len(data) + position)

def write(name, outcome, kind, blob, note="", **fields):
    lines = [f"outcome: {outcome}", f"kind: {kind}"] + ([f"note: {note}"] if note else [])
    lines += [f"{key}: {value.hex() if isinstance(value, bytes) else value}" for key, value in fields.items()]
    with open(os.path.join(HERE, name + ".txt"), "w") as file: file.write("\n".join(lines) + "\n\n" + blob.hex() + "\n")

keys = dict(keyring=KEYRING, root=ROOT, root_generation=4, kek_id=KEK_ID, kek_version=2, kek=kek(), domain=DOMAIN, generation=3, dek=dek())
def values(name, outcome, blob, note="", key=NAME, plaintext=PLAIN, **changed):
    write("value-" + name, outcome, "value", blob, note, **(keys | changed), key=key, plaintext=plaintext)
values("opens", "opens", value())
values("empty-opens", "opens", value(plain=b""), plaintext=b"")
values("long-opens", "opens", value(plain=fill("long", 300)), plaintext=fill("long", 300))
values("moved-to-other-key", "moved record", value(), "the bytes of one key stand under another", key=b"\1/registry/secrets/test/db")
values("other-keyring", "bad commitment", value(keyring=fill("other", 16)), "sealed for another keyring under the same key")
values("other-data-key", "bad commitment", value(key=fill("other", 32)))
values("commitment-changed", "bad commitment", flipped(value(), 16 + 24 + 5))
values("nonce-changed", "bad commitment", flipped(value(), 16 + 5))
values("tag-changed", "bad tag", flipped(value(), -1))
values("ciphertext-changed", "bad tag", flipped(value(), 16 + 24 + 32))
values("end-missing", "bad tag", value()[:-1])
values("byte-added", "bad tag", value() + b"\0")
values("truncated", "truncated", value()[:87])
values("wrong-magic", "wrong magic", value(magic=0xE2))
values("unknown-algorithm", "unknown algorithm", value(alg=2))
values("unknown-flags", "unknown flags", value(flags=0x8000))
values("unknown-key", "unknown key", value(gen=9))
def data_keys(name, outcome, blob, **changed):
    write("data-key-" + name, outcome, "data key", blob, **({k: v for k, v in keys.items() if k != "dek"} | changed), plaintext=DEK)
data_keys("opens", "opens", dek())
data_keys("other-generation", "moved record", dek(gen=2))
data_keys("other-key-encryption-key", "bad commitment", dek(kek=fill("other", 32)))
data_keys("tag-changed", "bad tag", flipped(dek(), -1))
data_keys("truncated", "truncated", dek()[:-1])
data_keys("wrong-magic", "wrong magic", dek(magic=0xC1))
data_keys("unknown-algorithm", "unknown algorithm", dek(alg=7))
data_keys("unknown-flags", "unknown flags", dek(flags=1))
def keks(name, outcome, blob, **changed):
    write("key-encryption-key-" + name, outcome, "key-encryption key", blob,
          **({k: v for k, v in keys.items() if k not in ("dek", "kek", "domain", "generation")} | changed), plaintext=KEK)
keks("opens", "opens", kek())
keks("other-version", "moved record", kek(version=3))
keks("other-root", "bad commitment", kek(root=fill("other", 32)))
keks("other-keyring", "bad commitment", kek(keyring=fill("other", 16)))
keks("unknown-root", "unknown root", kek(root_generation=9))
keks("truncated", "truncated", kek()[:100])
def file_keys(name, outcome, blob):
    write("file-key-" + name, outcome, "file key", blob, keyring=KEYRING, root=ROOT, root_generation=4, generation=6, member=MEMBER, plaintext=FILE_KEY)
file_keys("opens", "opens", file_key())
file_keys("other-root", "bad commitment", file_key(root=fill("other", 32)))
file_keys("tag-changed", "bad tag", flipped(file_key(), -3))
file_keys("truncated", "truncated", file_key()[:127])
def seal_files(name, outcome, blob, key_file=KEY_FILE): write("seal-file-" + name, outcome, "seal file", blob, key_file=key_file, root=ROOT, root_generation=4)
seal_files("opens", "opens", seal_file())
seal_files("other-key-file", "wrong key file", seal_file(), key_file=fill("other", 32))
seal_files("same-fingerprint-other-bytes", "same fingerprint other bytes", seal_file(public=x25519(fill("other", 32), BASE)))
seal_files("mac-of-another-root", "bad mac", seal_file(mac_root=fill("other", 32)))
seal_files("slot-of-another-file", "moved record", seal_file(slot_id=1, boxed_slot=2))
seal_files("root-of-another-generation", "moved record", seal_file(boxed_generation=3))
seal_files("root-of-another-keyring", "bad commitment", seal_file(boxed_keyring=fill("other", 16)))
seal_files("truncated", "truncated", seal_file()[:-1])
seal_files("trailing-bytes", "trailing bytes", seal_file() + b"\0")
seal_files("wrong-magic", "wrong magic", b"CFSEAL2\0" + seal_file()[8:])
seal_files("malformed-slot", "malformed slot", seal_file(parameters=hash_as(b"coffer.kfid.v1", KEY_FILE, b"", 16) + b"\0" + x25519(slot_secret(KEY_FILE), BASE)))

def named(plain=PLAIN, key=KEK, magic=0xA1, alg=1, flags=0, version=2, keyring=KEYRING, context=b"node-7"):
    header = struct.pack(">BBHI16s", magic, alg, flags, version, KEK_ID)
    return seal(b"coffer.wrp.v1", key, fill("nonce named", 24), header, keyring + prefixed(context), plain)
def named_keys(name, outcome, blob, context=b"node-7", plaintext=PLAIN):
    write("named-key-" + name, outcome, "named key", blob, keyring=KEYRING, key_id=KEK_ID, key_version=2, material=KEK, context=context, plaintext=plaintext)
named_keys("opens", "opens", named())
named_keys("empty-opens", "opens", named(plain=b"", context=b""), context=b"", plaintext=b"")
named_keys("other-context", "bad commitment", named(), context=b"node-8")
named_keys("other-keyring", "bad commitment", named(keyring=fill("other", 16)))
named_keys("other-key", "bad commitment", named(key=fill("other", 32)))
named_keys("other-version", "unknown key", named(version=9))
named_keys("tag-changed", "bad tag", flipped(named(), -1))
named_keys("truncated", "truncated", named()[:95])
named_keys("wrong-magic", "wrong magic", named(magic=0xE1))
named_keys("unknown-algorithm", "unknown algorithm", named(alg=2))
named_keys("unknown-flags", "unknown flags", named(flags=1))
