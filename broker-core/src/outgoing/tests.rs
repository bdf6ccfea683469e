//! Files of an agent that may be anywhere and change at any time.

use std::os::unix::fs::symlink;

use super::*;

struct Place {
    root: tempfile::TempDir,
    count: std::cell::Cell<u32>,
}

impl Place {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        for name in ["workspace/sub", "repos", "outside/workspace"] {
            std::fs::create_dir_all(root.path().join(name)).unwrap();
        }
        Self { root, count: std::cell::Cell::new(0) }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.at(name), text).unwrap();
    }

    fn pin(&self, path: &str) -> Result<Pinned, Refusal> {
        self.count.set(self.count.get() + 1);
        let copy = folder(self.root.path()).join(self.count.get().to_string());
        check(path, &self.at("workspace"), &[self.at("workspace"), self.at("repos")])?.copy(&copy, || true)
    }

    #[track_caller]
    fn refused(&self, path: &str, code: &str) {
        let refusal = self.pin(path).unwrap_err();
        assert_eq!(refusal.code, code, "{path}: {refusal}");
    }
}

#[test]
fn what_may_go_out_is_copied_and_a_later_change_changes_nothing() {
    let place = Place::new();
    place.write("workspace/sub/a.txt", "first");
    place.write("repos/b.txt", "b");
    let pinned = place.pin("sub/a.txt").unwrap();
    place.write("workspace/sub/a.txt", "second");
    assert_eq!((pinned.name.as_str(), pinned.bytes), ("a.txt", 5));
    assert_eq!(std::fs::read_to_string(&pinned.copy).unwrap(), "first");
    assert_eq!(pinned.copy.metadata().unwrap().mode() & 0o777, 0o600);
    assert!(place.pin(place.at("repos/b.txt").to_str().unwrap()).is_ok());
    // A link that stays inside is as good as what it leads to.
    symlink(place.at("repos/b.txt"), place.at("workspace/link.txt")).unwrap();
    assert_eq!(place.pin("link.txt").unwrap().name, "link.txt");

    clean(place.root.path(), std::slice::from_ref(&pinned.copy), Duration::ZERO).unwrap();
    let left: Vec<_> = std::fs::read_dir(folder(place.root.path())).unwrap().map(|e| e.unwrap().path()).collect();
    assert_eq!(left, [pinned.copy]);
}

#[test]
fn nothing_else_goes_out() {
    let place = Place::new();
    for name in ["outside/x", "outside/workspace/x", "workspace/x", "workspace/several"] {
        place.write(name, "x");
    }
    place.write("workspace/empty", "");
    symlink(place.at("outside/x"), place.at("workspace/link")).unwrap();
    symlink(place.at("outside"), place.at("workspace/linked")).unwrap();
    symlink("/dev/zero", place.at("workspace/zero")).unwrap();
    symlink(place.at("outside/missing"), place.at("workspace/dangling")).unwrap();
    symlink(place.at("workspace/loop"), place.at("workspace/loop")).unwrap();
    std::fs::hard_link(place.at("workspace/several"), place.at("outside/several")).unwrap();
    let fifo = place.at("workspace/fifo");
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU, 0).unwrap();
    let outside = place.at("outside/x");
    let long = "x".repeat(300);
    for (path, code) in [
        (outside.to_str().unwrap(), "not_allowed"),
        ("../outside/x", "not_allowed"),
        ("sub/../../outside/workspace/x", "not_allowed"),
        ("/etc/passwd", "not_allowed"),
        ("link", "not_allowed"),
        ("linked/x", "not_allowed"),
        ("zero", "not_allowed"),
        ("/dev/zero", "not_allowed"),
        ("/proc/self/environ", "not_allowed"),
        ("several", "not_allowed"),
        ("sub", "not_a_file"),
        ("fifo", "not_a_file"),
        ("empty", "empty"),
        ("missing", "not_found"),
        ("sub/missing/too", "not_found"),
        ("sub/../missing", "not_found"),
        // Of what lies elsewhere nobody is told whether it is there.
        ("../outside/missing", "not_allowed"),
        ("/etc/missing", "not_allowed"),
        ("dangling", "not_allowed"),
        ("linked/missing", "not_allowed"),
        ("linked/../missing", "not_allowed"),
        ("loop", "not_allowed"),
        ("x\0y", "not_found"),
        ("x/y", "not_found"),
        (long.as_str(), "not_found"),
    ] {
        place.refused(path, code);
    }
    let large = File::create(place.at("workspace/large")).unwrap();
    large.set_len(MAX_BYTES + 1).unwrap();
    place.refused("large", "too_large");
}

#[test]
fn what_changes_between_the_check_and_the_copy_does_not_go_out() {
    let place = Place::new();
    let check = || check("f", &place.at("workspace"), &[place.at("workspace")]).unwrap();
    type Change = fn(&Place);
    let changes: [(&str, Change); 5] = [
        ("another name", |place| std::fs::hard_link(place.at("workspace/f"), place.at("outside/f")).unwrap()),
        ("no name", |place| std::fs::remove_file(place.at("workspace/f")).unwrap()),
        ("a name elsewhere", |place| std::fs::rename(place.at("workspace/f"), place.at("outside/f")).unwrap()),
        ("less", |place| place.write("workspace/f", "x")),
        ("more", |place| place.write("workspace/f", "more than before")),
    ];
    for (n, (what, change)) in changes.into_iter().enumerate() {
        place.write("workspace/f", "content");
        let (checked, copy) = (check(), folder(place.root.path()).join(n.to_string()));
        change(&place);
        let refusal = checked.copy(&copy, || true).unwrap_err();
        assert_eq!((refusal.code, copy.exists()), ("failed", false), "{what}: {refusal}");
        for name in ["workspace/f", "outside/f"] {
            let _ = std::fs::remove_file(place.at(name));
        }
    }
}

/// Whoever makes and removes a second name fast enough has the count of names right at the moment of one look.
#[test]
fn a_name_that_comes_and_goes_brings_nothing_out() {
    let place = Place::new();
    place.write("outside/of-others", "not for Slack");
    let (outside, inside) = (place.at("outside/of-others"), place.at("workspace/f"));
    let over = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(std::sync::atomic::Ordering::Relaxed) {
                let _ = std::fs::hard_link(&outside, &inside);
                let _ = std::fs::remove_file(&inside);
            }
        });
        let out = (0..30_000).any(|_| place.pin("f").is_ok());
        over.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(!out, "what lies elsewhere was copied");
    });
}

#[test]
fn a_root_behind_a_link_is_known_by_both_names() {
    let place = Place::new();
    place.write("workspace/a.txt", "x");
    let linked = place.at("linked");
    symlink(place.at("workspace"), &linked).unwrap();
    let real = place.at("workspace").canonicalize().unwrap().join("a.txt");
    for path in [linked.join("a.txt"), real] {
        assert!(check(path.to_str().unwrap(), &linked, std::slice::from_ref(&linked)).is_ok(), "{}", path.display());
    }
}

#[test]
fn what_came_with_a_request_is_moved_and_never_left_behind() {
    let place = Place::new();
    let copy = folder(place.root.path()).join("copy");
    let receive = |content: &str| {
        let (received, mut file) = Received::make(place.root.path(), "1").unwrap();
        std::io::Write::write_all(&mut file, content.as_bytes()).unwrap();
        received
    };
    for (name, content, code) in
        [("a.txt", "", "empty"), (".env", "x", "secret"), ("a", "-----BEGIN RSA PRIVATE KEY-----", "secret")]
    {
        let received = receive(content);
        assert_eq!(check_received(received.path(), name).unwrap_err().code, code, "{name}");
        drop(received);
    }
    let received = receive("abc");
    let pinned = check_received(received.path(), "a.txt").unwrap().copy(&copy, || true).unwrap();
    assert_eq!((pinned.name.as_str(), pinned.bytes), ("a.txt", 3));
    assert_eq!(check_received(received.path(), "a.txt").unwrap_err().code, "failed", "it is gone");
    drop(received);
    let left: Vec<_> = std::fs::read_dir(folder(place.root.path())).unwrap().map(|e| e.unwrap().path()).collect();
    assert_eq!(left, [copy]);
}

#[test]
fn what_looks_like_a_secret_stays() {
    let place = Place::new();
    place.write("workspace/.env", "x");
    place.write("workspace/notes.txt", "-----BEGIN OPENSSH PRIVATE KEY-----\n");
    // Under another name it is the same file.
    symlink(place.at("workspace/.env"), place.at("workspace/harmless.txt")).unwrap();
    for name in [".env", "notes.txt", "harmless.txt"] {
        place.refused(name, "secret");
    }
    place.write("workspace/.env.example", "x");
    assert!(place.pin(".env.example").is_ok());
}
